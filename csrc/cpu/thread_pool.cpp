#include "thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace fastmaml {
namespace {

using namespace std::chrono_literals;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A thread that is either idle, in the pool or about to return to it, or running a job.
class Worker {
 public:
  void start() {
    std::thread([this] { loop(); }).detach();
  }

  void run(void (*function)(void*, int), void* context, int index) {
    function_ = function;
    context_ = context;
    index_ = index;
    state_.store(State::running, std::memory_order_release);
    state_.notify_one();
  }

  // Wakes it if it is idle.
  void rouse() {
    State idle = State::idle;
    if (state_.compare_exchange_strong(idle, State::roused)) state_.notify_one();
  }

  // Until the job has ended; meanwhile calls poll(context) now and then, if there is one.
  void wait(void (*poll)(void*), void* context) {
    // Jobs end nearly together, and to be woken takes longer than the rest of most.
    if (spin_while(100us, [](State state) { return state == State::running; })) return;
    std::unique_lock lock(mutex_);
    const auto has_ended = [this] { return state_.load(std::memory_order_acquire) == State::idle; };
    while (!ended_.wait_for(lock, 50ms, has_ended)) {
      lock.unlock();
      if (poll) poll(context);
      lock.lock();
    }
  }

 private:
  enum class State { idle, roused, running };

  void loop() {
    for (;;) {
      wait_for_job();
      function_(context_, index_);
      {
        const std::lock_guard lock(mutex_);
        state_.store(State::idle, std::memory_order_release);
      }
      ended_.notify_one();
    }
  }

  void wait_for_job() {
    const auto has_none = [](State state) { return state != State::running; };
    // One job often follows another, but an idle thread must leave the core to others.
    while (!spin_while(5us, has_none)) {
      state_.wait(State::idle, std::memory_order_acquire);
      if (spin_while(300us, has_none)) return;
      State roused = State::roused;
      state_.compare_exchange_strong(roused, State::idle);
    }
  }

  // Whether the state becomes another within the time, while the thread keeps its core.
  template <class Holds>
  bool spin_while(std::chrono::microseconds time, Holds holds) const {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point end = Clock::now() + time;
    while (holds(state_.load(std::memory_order_acquire))) {
      if (Clock::now() > end) return false;
      pause();
    }
    return true;
  }

  std::atomic<State> state_{State::idle};
  std::mutex mutex_;  // of the way back to idle
  std::condition_variable ended_;
  void (*function_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int index_ = 0;
};

class Pool {
 public:
  // Never destroyed: its threads are detached and outlive every static object.
  static Pool& instance() {
    static Pool* pool = new Pool;
    return *pool;
  }

  // Takes idle workers, and starts what is missing.
  std::vector<Worker*> take(size_t count) {
    std::vector<Worker*> taken;
    taken.reserve(count);
    {
      const std::lock_guard lock(mutex_);
      last_count_ = count;
      while (taken.size() < count && !idle_.empty()) {
        taken.push_back(idle_.back());
        idle_.pop_back();
      }
    }
    try {
      while (taken.size() < count) {
        auto worker = std::make_unique<Worker>();
        worker->start();
        taken.push_back(worker.release());
      }
    } catch (...) {
      give_back(taken);
      throw;
    }
    return taken;
  }

  // The idle workers that the next run would take, if it takes as many as the last.
  void rouse() {
    const std::lock_guard lock(mutex_);
    const size_t count = std::min(last_count_, idle_.size());
    for (size_t i = 0; i < count; ++i) idle_[idle_.size() - 1 - i]->rouse();
  }

  void give_back(const std::vector<Worker*>& workers) {
    const std::lock_guard lock(mutex_);
    idle_.insert(idle_.end(), workers.begin(), workers.end());
  }

 private:
  // Nobody else holds the lock at the moment of a fork; the child has none of the threads.
  Pool() {
    pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                   [] {
                     instance().idle_.clear();
                     instance().mutex_.unlock();
                   });
  }

  std::mutex mutex_;
  std::vector<Worker*> idle_;
  size_t last_count_ = 0;
};

}  // namespace

void run_parallel(int threads, void (*function)(void* context, int index), void* context,
                  void (*poll)(void* context)) {
  const size_t others = static_cast<size_t>(std::max(threads, 1)) - 1;
  const std::vector<Worker*> workers = Pool::instance().take(others);
  int index = 1;
  for (Worker* worker : workers) worker->run(function, context, index++);
  function(context, 0);
  for (Worker* worker : workers) worker->wait(poll, context);
  Pool::instance().give_back(workers);
}

void rouse() { Pool::instance().rouse(); }

}  // namespace fastmaml
