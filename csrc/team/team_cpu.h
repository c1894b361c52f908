// The Team (team.h) of processor cores: lane i is a thread, and vectors do the work inside a lane.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>

#include "gemm.h"
#include "gemm_lockstep.h"

namespace fastmaml {

// What the lanes of one team share; it must outlive them.
struct TeamShared {
  alignas(64) std::atomic<int32_t> arrived{0};
  alignas(64) std::atomic<uint32_t> generation{0};
  // Whether to stop: lane 0 asks, and leaves the answer to all. Null: never.
  bool (*stop)(void* context) = nullptr;
  void* stop_context = nullptr;
  bool stopped = false;
};

}  // namespace fastmaml

namespace fastmaml::FM_ISA {

template <class Real>
class TeamCpu {
 public:
  // Lane `rank` of `size`; all lanes of a team are given the same `shared`, which may be null
  // where size is 1.
  TeamCpu(int rank, int size, TeamShared* shared) : rank_(rank), size_(size), shared_(shared) {}

  // One thread that runs as many tasks in lockstep as a vector has numbers.
  static TeamCpu in_lockstep(TeamShared* shared) {
    TeamCpu team(0, 1, shared);
    team.tasks_ = most_tasks;
    return team;
  }

  static constexpr int samples_a_lane = 16;
  static constexpr int most_tasks = Vec<Real>::width;

  int tasks() const { return tasks_; }

  int rank() const { return rank_; }
  int size() const { return size_; }

  void sync() {
    if (size_ > 1) wait_for_all();
  }

  bool stopped() {
    if (!shared_ || !shared_->stop) return false;
    if (rank_ == 0) shared_->stopped = shared_->stop(shared_->stop_context);
    sync();
    const bool stopped = shared_->stopped;
    sync();  // before it is asked again
    return stopped;
  }

  void gemm(int64_t m, int64_t n, int64_t k, Real alpha, View<const Real> a, View<const Real> b,
            View<const Real> init, View<Real> c, const Real* a_more = nullptr,
            const Real* b_more = nullptr) {
    const Product<Real> product{m, n, k, alpha, a, b, init, c, a_more, b_more, &ahead_};
    if (tasks_ > 1) {
      gemm_in_lockstep(product);
    } else {
      FM_ISA::gemm(product, rank_, size_);
    }
  }

  // No more than stays in the second-level cache until it is read.
  void fetch_ahead(const Real* from, int64_t count) {
    const Range mine = part(count < second_cache<Real> ? count : second_cache<Real>, size_, rank_);
    ahead_ = {reinterpret_cast<uintptr_t>(from + mine.begin),
              reinterpret_cast<uintptr_t>(from + mine.end)};
  }

  template <class F>
  FM_FLATTEN void each(int64_t count, F f) {
    const Range mine = blocks_of(count);
#pragma GCC ivdep
    for (int64_t i = mine.begin; i < mine.end; ++i) f(i);
  }

  template <class F>
  FM_FLATTEN void write(int64_t count, Real* to, F value) {
    const Range mine = blocks_of(count);
#pragma GCC ivdep
    for (int64_t i = mine.begin; i < mine.end; ++i) to[i] = value(i);
  }

  template <class F>
  void rows(int64_t count, F f) {
    for (int64_t i = rank_; i < count; i += size_) f(i);
  }

  template <class F>
  FM_FLATTEN void map(Along along, int64_t groups, int64_t count, F f) {
    if (along == Along::element) {
      const Range mine = part(groups, size_, rank_);
      for (int64_t g = mine.begin; g < mine.end; ++g) {
#pragma GCC ivdep
        for (int64_t e = 0; e < count; ++e) f(g, e);
      }
      return;
    }
    const Range mine = blocks_of(groups);
    for (int64_t e = 0; e < count; ++e) {
#pragma GCC ivdep
      for (int64_t g = mine.begin; g < mine.end; ++g) f(g, e);
    }
  }

  template <class F>
  double total(int64_t count, F f) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += f(i);
    return sum;
  }

  template <int N, class F, class Sink>
  FM_FLATTEN void reduce(Along along, int64_t groups, int64_t count, F f, Sink sink) {
    if (along == Along::element) {
      reduce_rows<N>(groups, count, f, sink);
    } else {
      reduce_columns<N>(groups, count, f, sink);
    }
  }

 private:
  // Lanes take elements, and columns of reductions, in blocks of this size: whole vectors, and
  // whole cache lines, of every instruction set.
  static constexpr int64_t block = 64;
  // Partial sums of a group whose elements are contiguous, and groups that are summed together
  // where the groups are. The same for every instruction set, so that they agree.
  static constexpr int partials = 16;

  // This lane's part of 0..count-1, in whole blocks but for the last.
  FM_INLINE Range blocks_of(int64_t count) const {
    const Range blocks = part(ceil_div(count, block), size_, rank_);
    return {blocks.begin * block, blocks.end * block < count ? blocks.end * block : count};
  }

  // N times `count` sums that stay in registers.
  template <int N, int count>
  struct Sums {
    using V = Vec<Real>;
    static constexpr int vectors = count / V::width;
    V sums[N][vectors];

    FM_INLINE Sums() {
      for (auto& row : sums) {
        for (V& sum : row) sum = V::zero();
      }
    }

    // Adds f(l) to the sums l = 0..count-1.
    template <class F>
    FM_INLINE void add_block(F f) {
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        Real terms[N][V::width];
#pragma GCC ivdep
#pragma GCC unroll 1  // until it has become vectors
        for (int l = 0; l < V::width; ++l) {
          const Terms<Real, N> term = f(v * V::width + l);
#pragma GCC unroll 4
          for (int t = 0; t < N; ++t) terms[t][l] = term.value[t];
        }
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) sums[t][v] = add(sums[t][v], V::load(terms[t]));
      }
    }

    // The partial sums of t, as many as a vector has lanes.
    FM_INLINE V total(int t) const {
      V all = sums[t][0];
#pragma GCC unroll 8
      for (int v = 1; v < vectors; ++v) all = add(all, sums[t][v]);
      return all;
    }

    FM_INLINE void store(Real (&to)[N][count]) const {
      for (int t = 0; t < N; ++t) {
        for (int v = 0; v < vectors; ++v) sums[t][v].store(to[t] + v * V::width);
      }
    }
  };

  // Several groups at a time, where to add up the partial sums of one would be half of the work.
  template <int N, class F, class Sink>
  FM_INLINE void reduce_rows(int64_t groups, int64_t count, F f, Sink sink) {
    constexpr int width = Vec<Real>::width, at_once = N > 1 ? 1 : width > 8 ? width : 8;
    const Range mine = part(groups, size_, rank_);
    int64_t g = mine.begin;
    for (; g + at_once <= mine.end; g += at_once) sum_rows<N, at_once>(g, count, f, sink);
    for (; g < mine.end; ++g) sum_rows<N, 1>(g, count, f, sink);
  }

  // Those of the groups first..first+rows-1. Whole blocks of elements go into partial sums, which
  // are added up last; the rest one by one.
  template <int N, int rows, class F, class Sink>
  FM_INLINE void sum_rows(int64_t first, int64_t count, F f, Sink sink) {
    Real totals[N * rows] = {};
    const int64_t blocks = count / partials * partials;
    if (blocks) {
      Vec<Real> sums[N * rows];
#pragma GCC unroll 1
      for (int r = 0; r < rows; ++r) {
        Sums<N, partials> of_row;
        for (int64_t e = 0; e < blocks; e += partials) {
          of_row.add_block([&](int l) FM_ALWAYS_INLINE { return f(first + r, e + l); });
        }
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) sums[r * N + t] = of_row.total(t);
      }
      sum_each<N * rows>(sums, totals);
    }
    for (int r = 0; r < rows; ++r) {
      Terms<Real, N> total;
      for (int t = 0; t < N; ++t) total.value[t] = totals[r * N + t];
      for (int64_t e = blocks; e < count; ++e) {
        const Terms<Real, N> terms = f(first + r, e);
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) total.value[t] += terms.value[t];
      }
      sink(first + r, total);
    }
  }

  // A block of groups at a time, or a vector of them, or one; each group's elements one after
  // another.
  template <int N, class F, class Sink>
  FM_INLINE void reduce_columns(int64_t groups, int64_t count, F f, Sink sink) {
    constexpr int width = Vec<Real>::width;
    const Range blocks = part(ceil_div(groups, partials), size_, rank_);
    const int64_t end = blocks.end * partials < groups ? blocks.end * partials : groups;
    int64_t g = blocks.begin * partials;
    for (; g + partials <= end; g += partials) sum_columns<N, partials>(g, count, f, sink);
    for (; g + width <= end; g += width) sum_columns<N, width>(g, count, f, sink);
    for (; g < end; ++g) {
      Terms<Real, N> total = {};
      for (int64_t e = 0; e < count; ++e) {
        const Terms<Real, N> terms = f(g, e);
#pragma GCC unroll 4
        for (int t = 0; t < N; ++t) total.value[t] += terms.value[t];
      }
      sink(g, total);
    }
  }

  // Those of the groups first..first+columns-1.
  template <int N, int columns, class F, class Sink>
  FM_INLINE void sum_columns(int64_t first, int64_t count, F f, Sink sink) {
    Sums<N, columns> sums;
    for (int64_t e = 0; e < count; ++e) {
      sums.add_block([&](int l) FM_ALWAYS_INLINE { return f(first + l, e); });
    }
    Real totals[N][columns];
    sums.store(totals);
#pragma GCC ivdep
    for (int l = 0; l < columns; ++l) {
      Terms<Real, N> total;
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) total.value[t] = totals[t][l];
      sink(first + l, total);
    }
  }

  void wait_for_all() {
    const uint32_t generation = shared_->generation.load(std::memory_order_relaxed);
    if (shared_->arrived.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      shared_->arrived.store(0, std::memory_order_relaxed);
      shared_->generation.store(generation + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; shared_->generation.load(std::memory_order_acquire) == generation;) {
      if (++spins < 2000) {
        pause();
      } else {
        sched_yield();  // the lane that we wait for may need this core
      }
    }
  }

  static FM_INLINE void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  int rank_;
  int size_;
  int tasks_ = 1;
  TeamShared* shared_;
  Ahead ahead_;
};

}  // namespace fastmaml::FM_ISA
