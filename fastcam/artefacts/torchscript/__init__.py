"""TorchScript graphs turned into steps that run one by one, with submodules and values that can be hooked.

::

    graph(%self, %images):                                    steps
      %conv = prim::GetAttr[name="conv"](%self)          ->   values["conv"] = the reading of the submodule
      %maps = prim::CallMethod[name="forward"](%conv, %images) -> values["maps"] = conv(images), with its hooks
      %scale = prim::Constant[value=2]()                 ->   values["scale"] = 2
      %y = aten::mul(%maps, %scale)                      ->   values["y"] = Value("mul")(mul(maps, scale))
      return (%y)

``module`` holds the modules, ``graph_reader`` translates nodes, ``steps`` runs them, ``operations`` does in Python what
TorchScript's own functions cannot, and ``internals`` names all private entry points of torch.
"""
