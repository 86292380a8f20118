// Every kernel once as it should be, and once for every bug that it can be given.
#pragma once
#include "../cuda_sim.h"

namespace correct {
#include "histogram.cu"
#include "row_sums.cu"
#include "scaled.cu"
#include "staged_sums.cu"
#include "transposed.cu"
#include "visited.cu"
#include "warp_values.cu"
}  // namespace correct

#define BUG_EXITED_LANES
namespace exited_lanes {
#include "row_sums.cu"
}
#undef BUG_EXITED_LANES

#define BUG_WAITS_FOR_BOTH
namespace waits_for_both {
#include "row_sums.cu"
}
#undef BUG_WAITS_FOR_BOTH

#define BUG_MASK_WITHOUT_CALLER
namespace mask_without_caller {
#include "row_sums.cu"
}
#undef BUG_MASK_WITHOUT_CALLER

#define BUG_TWO_OPERATIONS
namespace two_operations {
#include "row_sums.cu"
}
#undef BUG_TWO_OPERATIONS

#define BUG_DIVERGENT_BARRIER
namespace divergent_barrier {
#include "row_sums.cu"
}
#undef BUG_DIVERGENT_BARRIER

#define BUG_MISSING_BARRIER
namespace missing_barrier {
#include "row_sums.cu"
}
#undef BUG_MISSING_BARRIER

#define BUG_MISSING_LAST_BARRIER
namespace missing_last_barrier {
#include "row_sums.cu"
}
#undef BUG_MISSING_LAST_BARRIER

#define BUG_ONE_OUTPUT
namespace one_output {
#include "row_sums.cu"
}
#undef BUG_ONE_OUTPUT

#define BUG_GLOBAL_BOUNDS
namespace global_bounds {
#include "transposed.cu"
}
#undef BUG_GLOBAL_BOUNDS

#define BUG_SHARED_BOUNDS
namespace shared_bounds {
#include "transposed.cu"
}
#undef BUG_SHARED_BOUNDS

#define BUG_RACE_AFTER_BARRIER
namespace race_after_barrier {
#include "transposed.cu"
}
#undef BUG_RACE_AFTER_BARRIER

#define BUG_MISALIGNED
namespace misaligned {
#include "scaled.cu"
}
#undef BUG_MISALIGNED

#define BUG_UNINITIALISED
namespace uninitialised {
#include "histogram.cu"
}
#undef BUG_UNINITIALISED

#define BUG_NO_ATOMIC
namespace no_atomic {
#include "histogram.cu"
}
#undef BUG_NO_ATOMIC

#define BUG_BLOCKS_RACE
namespace blocks_race {
#include "histogram.cu"
}
#undef BUG_BLOCKS_RACE

#define BUG_MISSING_SYNCWARP
namespace missing_syncwarp {
#include "warp_values.cu"
}
#undef BUG_MISSING_SYNCWARP

#define BUG_NO_WAIT
namespace no_wait {
#include "staged_sums.cu"
}
#undef BUG_NO_WAIT

#define BUG_WEAK_WAIT
namespace weak_wait {
#include "staged_sums.cu"
}
#undef BUG_WEAK_WAIT

#define BUG_NO_BARRIER_AFTER_WAIT
namespace no_barrier_after_wait {
#include "staged_sums.cu"
}
#undef BUG_NO_BARRIER_AFTER_WAIT

#define BUG_BARRIER_BEFORE_WAIT
namespace barrier_before_wait {
#include "staged_sums.cu"
}
#undef BUG_BARRIER_BEFORE_WAIT

#define BUG_NO_BARRIER_BEFORE_FETCH
namespace no_barrier_before_fetch {
#include "staged_sums.cu"
}
#undef BUG_NO_BARRIER_BEFORE_FETCH

#define BUG_NO_COMMIT
namespace no_commit {
#include "staged_sums.cu"
}
#undef BUG_NO_COMMIT

#define BUG_COPY_MISALIGNED
namespace copy_misaligned {
#include "staged_sums.cu"
}
#undef BUG_COPY_MISALIGNED

#define BUG_COPY_OF_TWELVE
namespace copy_of_twelve {
#include "staged_sums.cu"
}
#undef BUG_COPY_OF_TWELVE

#define BUG_COPY_TO_GLOBAL
namespace copy_to_global {
#include "staged_sums.cu"
}
#undef BUG_COPY_TO_GLOBAL

#define BUG_COPY_PAST_SHARED
namespace copy_past_shared {
#include "staged_sums.cu"
}
#undef BUG_COPY_PAST_SHARED

#define BUG_COPY_PAST_SOURCE
namespace copy_past_source {
#include "staged_sums.cu"
}
#undef BUG_COPY_PAST_SOURCE
