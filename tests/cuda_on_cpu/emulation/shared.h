// The shared memory of a block.
//
// A static __shared__ variable is a C++ static, one for all blocks: what a block left in it is
// saved when another block of its cluster (or cooperative grid) takes its turn, and put back before
// it goes on. They are found in the symbol table of the program, or library, as the statics inside
// functions of namespace gdext::cuda; those of a function that the launch has not come to are left
// alone (shared_of_function.h). Dynamic shared memory is an allocation for each block.
#pragma once
#include <cstddef>
#include <cstdint>
#include <list>
#include <vector>

namespace emulation {

// What nobody has written is full of bytes 0xff: NaN in every floating-point type, -1 in integers.
// Shared memory, in some launches, of 0x4b instead, large numbers in most types: kernels that make
// anew what is not finite would mend a NaN.
constexpr int kPoison = 0xff, kFinitePoison = 0x4b;
extern int poison;  // of shared memory, in this launch

class SharedMemory {
 public:
  SharedMemory() = default;
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void prepare(size_t dynamic_bytes, bool alone);  // alone: no other block takes turns with it
  void start();                                    // the block begins: poisons it
  void swap_in();                                  // this block runs from now on,
  void swap_out();                                 // and does not any more
  void end();                                      // the block has left: poisons it
  bool untouched() const;                          // since it was poisoned

  unsigned char* dynamic() const { return dynamic_; }
  size_t dynamic_bytes() const { return dynamic_bytes_; }

  // The red zones around dynamic memory are as they were.
  bool intact() const;

  // Where `address`, in the shared memory of the block that runs, is in this block's, which does
  // not run; null if it is not in shared memory.
  unsigned char* counterpart(const void* address, const SharedMemory& of_running_block);

 private:
  // A static variable, while another block runs.
  struct Saved {
    explicit Saved(size_t variable);  // in those used, full of poison
    std::vector<unsigned char> memory;
    unsigned char* at;
    size_t bytes;
  };
  void save_all_used();

  bool alone_ = true, inside_ = false;
  std::list<Saved> saved_;           // of the variables used, the first ones: no more were needed
  unsigned char* memory_ = nullptr;  // red zone, dynamic memory, from `after_` on red zone
  size_t allocated_ = 0;
  unsigned char *dynamic_ = nullptr, *after_ = nullptr;
  size_t dynamic_bytes_ = 0;
};

// Before a launch: none of the static variables has been used.
void forget_used_shared();

// Whether [address, address + bytes) is in a static __shared__ variable.
bool in_static_shared(const void* address, size_t bytes);

// Bytes of the static __shared__ variables of the function with this mangled name.
size_t static_shared_bytes_of(const char* mangled_function);

// The name in the symbol table of the function at this address, mangled; "" if it has none.
const char* mangled_name(const void* function);

}  // namespace emulation
