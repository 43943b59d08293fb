// usage: cpu f32|f64|bf16|f16 [seed [op]]    checks the CPU kernels, or that one, on the dtype;
//                                            GDEXT_CPU_ISA chooses the instruction set
//        cpu isas                            prints those that this processor has
#include <cstdlib>
#include <stdexcept>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/team.h"
#include "harness.h"

namespace gdext::test {

void test_path_sum();

namespace {

constexpr int kThreads = 3;

// As many ranges as may be, each on a thread of its own.
void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  void (*body)(const void*, int64_t, int64_t), const void* context) {
  const int64_t n = end - begin;
  const int parts = static_cast<int>(std::clamp<int64_t>(n / grain, 1, kThreads));
  cpu::run_team(parts, [&](cpu::Member& member) {
    body(context, begin + n * member.index / parts, begin + n * (member.index + 1) / parts);
  });
}

// Best first: the one in use is the best that this processor has.
void print_isas() {
  const std::string compiled = cpu::compiled_isas();
  printf("%s\n", compiled.substr(compiled.find(cpu::kernels().isa)).c_str());
}

bool run(const std::string& dtype, const std::string& op) {
  bool known = false;
  with_dtype_named(dtype, [&](auto element) {
    auto tests = op_tests<decltype(element)>();
    if (std::is_same_v<decltype(element), double>) tests.push_back({"path_sum", test_path_sum});
    known = run_tests(tests, op);
  });
  return known;
}

}  // namespace
}  // namespace gdext::test

int main(int argc, char** argv) {
  using namespace gdext;
  using namespace gdext::test;
  const auto argument = [&](int i, const char* otherwise) {
    return std::string(argc > i ? argv[i] : otherwise);
  };
  const std::string dtype = argument(1, ""), seed = argument(2, "1"), op = argument(3, "");
  if (dtype == "isas") {
    print_isas();
    return 0;
  }
  cpu::set_parallel_for(parallel_for, [] { return kThreads; });
  rng.seed(std::stoul(seed));
  if (!run(dtype, op)) {
    fprintf(stderr, "usage: %s f32|f64|bf16|f16 [seed [op]] | isas\n", argv[0]);
    return 2;
  }
  printf("%s, %s, seed %s: %ld numbers compared, %ld failures\n", cpu::kernels().isa, dtype.c_str(),
         seed.c_str(), compared, failures);
  return failures != 0;
}
