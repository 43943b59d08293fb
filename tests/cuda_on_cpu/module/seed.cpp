#include <cstdlib>
#include <string>

#include "emulation/emulation.h"
#include "torch/device.h"

namespace gdext {

bool seed_schedule() {
  const char* value = getenv("SCHEDULE_SEED");
  if (value) emulation::seed(std::stoul(value));
  return value != nullptr;
}

}  // namespace gdext
