// What a thread has set going and not yet waited for.
#pragma once
#include <deque>
#include <functional>
#include <vector>

namespace emulation {

// Work that is done at a time of its own choosing: at once, at some time, or when its group is
// waited for.
class AsyncQueue {
 public:
  using Work = std::function<void()>;

  explicit AsyncQueue(bool in_order) : in_order_(in_order) {}
  void issue(Work work);
  void commit();
  void wait(size_t groups_that_may_be_left);
  void wait_for_all();  // those not committed too
  void let_time_pass();
  bool idle() const { return open_.empty() && committed_.empty(); }

 private:
  using Group = std::vector<Work>;
  static void finish(Group& group);
  bool in_order_;
  Group open_;
  std::deque<Group> committed_;
};

}  // namespace emulation
