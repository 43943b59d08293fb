// A function's static __shared__ variables, as a thread comes to their declaration.
#pragma once

namespace emulation {

extern long shared_launch;  // the launch under way

class SharedOfFunction {
 public:
  void use() {
    if (launch_ != shared_launch) used_first();
  }

 private:
  void used_first();  // in this launch

  long launch_ = 0;
};

}  // namespace emulation
