// usage: primitives [seed [name]]    checks what kernels are made of, or that part of it
#include <string>

#include "device.h"

int main(int argc, char** argv) {
  using namespace gdext::cuda::primitives;
  const unsigned seed = argc > 1 ? std::stoul(argv[1]) : 1;
  const std::string only = argc > 2 ? argv[2] : "";
  rng.seed(seed);
#if defined(EMULATION_WHERE)  // not on a GPU
  emulation::seed(seed);
#endif
  const struct {
    const char* name;
    void (*run)();
  } tests[] = {{"warp", test_warp},   {"block", test_block},   {"cluster", test_cluster},
               {"grid", test_grid},   {"copies", test_copies}, {"bulk", test_bulk},
               {"boxes", test_boxes}, {"mma", test_mma},       {"wgmma", test_wgmma}};
  for (const auto& test : tests)
    if (only.empty() || only == test.name) test.run();
  printf("primitives, seed %u: %ld numbers compared, %ld failures\n", seed, compared, failures);
  return failures != 0 || compared == 0;
}
