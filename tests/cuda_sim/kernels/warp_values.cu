// What the lanes of a warp tell each other: every shuffle, votes, masks of a part of the warp, __syncwarp.
#include "../cuda_sim.h"

// Of 10 * lane (and 2^40 + lane), 13 numbers a lane: out is (13, 48), of a block of one and a half warps.
__global__ void warp_values(long long* out) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = 48;
  const unsigned all = warp == 0 ? 0xffffffff : 0x0000ffff, half = lane < 8 ? 0x000000ff : all & ~0x000000ffu;
  FASTCAM_SHARED(int, given, [48]);
  out += threadIdx.x;
  out[0 * count] = __shfl_sync(all, 10 * lane, 5);
  out[1 * count] = __shfl_sync(all, 10.0F * lane, lane + 1, 8);
  out[2 * count] = __shfl_up_sync(all, 10.0 * lane, 3, 16);
  out[3 * count] = __shfl_down_sync(all, (1LL << 40) + lane, 3, 16);
  out[4 * count] = __shfl_xor_sync(all, static_cast<short>(10 * lane), 9, 16);
  out[5 * count] = __ballot_sync(all, lane % 3 == 0);
  out[6 * count] = __any_sync(all, lane == 7) + 2 * __any_sync(all, lane == 32);
  out[7 * count] = __all_sync(all, lane < 32) + 2 * __all_sync(all, lane != 7);
  out[8 * count] = lane < 8 ? __shfl_xor_sync(half, lane, 7) : __shfl_xor_sync(half, 10 * lane, 1);
  out[9 * count] = __shfl_xor_sync(all, make_float2(lane, -lane), 1).y;
  given[threadIdx.x] = lane;
#if !defined(BUG_MISSING_SYNCWARP)
  __syncwarp(all);
#endif
  out[10 * count] = given[threadIdx.x ^ 1];
  out[11 * count] = max(lane, 3LL) + min(2.0F, NAN) + warpSize;
  out[12 * count] = threadIdx.x + 100 * threadIdx.y + 1000 * blockDim.x + 1000000 * gridDim.x;
}

inline void launch_warp_values(long long* out) { FASTCAM_LAUNCH(warp_values, 1, 48, 0, nullptr, out); }
