// Ends a call before its work is done, where its caller wishes so.
#pragma once

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>

namespace fastmaml {

// Asked now and then, on the thread that made the call, whether to end it.
using Interrupt = bool (*)();

// Thrown by a call that was interrupted.
struct Interrupted : std::exception {
  const char* what() const noexcept override { return "the call was interrupted"; }
};

// One call's interruption. The caller's thread asks, and all threads of the call see the answer.
class Interruption {
 public:
  // `interrupt` may be null: never. It must not throw.
  explicit Interruption(Interrupt interrupt) : interrupt_(interrupt) {}

  // Whether the call is to end; once true, it stays so. Any thread may look, at every step.
  bool happened() {
    if (std::this_thread::get_id() == caller_) ask();
    return happened_.load(std::memory_order_relaxed);
  }

 private:
  using Clock = std::chrono::steady_clock;
  // Asking may wait for a lock of the interpreter's: seldom enough that nobody pays for it.
  static constexpr std::chrono::milliseconds interval{50};

  void ask() {
    if (!interrupt_ || Clock::now() < next_) return;
    if (interrupt_()) {
      happened_.store(true, std::memory_order_relaxed);
      interrupt_ = nullptr;
    }
    next_ = Clock::now() + interval;
  }

  const std::thread::id caller_ = std::this_thread::get_id();
  Interrupt interrupt_;  // this and next_ are the caller's thread's own
  Clock::time_point next_ = Clock::now() + interval;
  std::atomic<bool> happened_{false};
};

}  // namespace fastmaml
