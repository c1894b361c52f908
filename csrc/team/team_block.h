// The Team (team.h) of a thread block, or of several in a cluster where tasks are few and large:
// lane i is a thread, and all of them together run one task. Blocks share no scratch memory: each
// does its part of a primitive by itself, and only `sync` waits for all.
//
// What lanes have of their own comes by `Lanes`: threads of a device (cuda/device_lanes.cuh), or,
// for the tests, of the host (tests/csrc/host_lanes.h):
//
//   int  rank() const, size() const, log_size() const;      // within the block: 2^n, 16 at least
//   int  block() const, blocks() const, log_blocks() const; // 2^n of them
//   void sync_block(), sync();                  // of the block, and of all
//   Real* scratch();                            // the block's memory, aligned for two doubles
//   int  scratch_size() const;                  // in numbers, 16 a lane at least
//   bool is_far(const Real* from) const;        // whether a copy from there is better asynchronous
//   void copy_far(const Real* from, Real* to);  // to scratch memory; perhaps under way, until
//   void wait_for_copies();                     // this lane's copies have arrived
//
// Primitives that use scratch memory synchronise the block before they write to it, so it is free
// after each.
#pragma once

#include "block_gemm.h"

namespace fastmaml::FM_ISA {

template <class Real, class Lanes>
class TeamBlock {
 public:
  static constexpr int samples_a_lane = 1;
  static constexpr int most_tasks = 1;

  FM_HD static constexpr int tasks() { return 1; }

  FM_HD explicit TeamBlock(Lanes lanes) : lanes_(lanes) {}

  FM_HD int rank() const { return (lanes_.block() << lanes_.log_size()) + lanes_.rank(); }
  FM_HD int size() const { return lanes_.blocks() << lanes_.log_size(); }
  FM_HD void sync() { lanes_.sync(); }
  FM_HD bool stopped() const { return false; }

  FM_DEVICE void gemm(int64_t m, int64_t n, int64_t k, Real alpha, View<const Real> a,
                      View<const Real> b, View<const Real> init, View<Real> c,
                      const Real* a_more = nullptr, const Real* b_more = nullptr) {
    const BlockProduct<Real> product{static_cast<int>(m),
                                     static_cast<int>(n),
                                     static_cast<int>(k),
                                     alpha,
                                     a,
                                     b,
                                     init,
                                     c,
                                     a_more,
                                     b_more};
    block_gemm(lanes_, product);
  }

  FM_HD void fetch_ahead(const Real*, int64_t) {}

  template <class F>
  FM_HD void each(int64_t count, F f) {
    FM_UNROLL(1)
    for (int i = rank(); i < static_cast<int>(count); i += size()) f(int64_t{i});
  }

  // Several at a time, so that their loads are under way together.
  template <class F>
  FM_HD void write(int64_t count, Real* to, F value) {
    constexpr int batch = 4;
    const int all = static_cast<int>(count), step = size();
    int i = rank();
    FM_UNROLL(1)
    for (; i + (batch - 1) * step < all; i += batch * step) {
      Real values[batch];
      for (int b = 0; b < batch; ++b) values[b] = value(int64_t{i + b * step});
      for (int b = 0; b < batch; ++b) to[i + b * step] = values[b];
    }
    FM_UNROLL(1)
    for (; i < all; i += step) to[i] = value(int64_t{i});
  }

  template <class F>
  FM_HD void rows(int64_t count, F f) {
    each(count, f);
  }

  template <class F>
  FM_HD void map(Along along, int64_t groups, int64_t count, F f) {
    const int inner = static_cast<int>(along == Along::element ? count : groups);
    const int all = static_cast<int>(groups * count);
    FM_UNROLL(1)
    for (int i = rank(); i < all; i += size()) {
      const int outer = i / inner, rest = i - outer * inner;
      along == Along::element ? f(int64_t{outer}, int64_t{rest}) : f(int64_t{rest}, int64_t{outer});
    }
  }

  // Every block for itself.
  template <class F>
  FM_HD double total(int64_t count, F f) {
    double* sums = reinterpret_cast<double*>(lanes_.scratch());
    double sum = 0;
    FM_UNROLL(1)
    for (int i = lanes_.rank(); i < static_cast<int>(count); i += lanes_.size()) {
      sum += f(int64_t{i});
    }
    lanes_.sync_block();
    sums[lanes_.rank()] = sum;
    halve(lanes_.size(), lanes_.rank(), [&](int to, int from) { sums[to] += sums[from]; });
    return sums[0];
  }

  // Several lanes a group where a block has fewer groups than lanes: neighbours take what lies side
  // by side in memory.
  template <int N, class F, class Sink>
  FM_HD void reduce(Along along, int64_t groups, int64_t count, F f, Sink sink) {
    const BlockPart mine(static_cast<int>(groups), lanes_);
    if (mine.count == 0) return;
    const int lanes = lanes_.size(), rank = lanes_.rank();
    int log_sharing = 0;
    while (mine.count << (log_sharing + 1) <= lanes && 2 << log_sharing <= count) ++log_sharing;
    if (log_sharing == 0) {
      FM_UNROLL(1)
      for (int g = rank; g < mine.count; g += lanes) {
        sink(int64_t{mine.first + g}, part<N>(mine.first + g, 0, 1, count, f));
      }
      return;
    }
    const int sharing = 1 << log_sharing, log_abreast = lanes_.log_size() - log_sharing;
    const bool by_group = along == Along::group;
    const int g = by_group ? rank & ((1 << log_abreast) - 1) : rank >> log_sharing;
    const int share = by_group ? rank >> log_abreast : rank & (sharing - 1);
    const bool has_group = g < mine.count;
    Real* sums = lanes_.scratch();  // term t of lane l at [t * lanes + l], by share within a group
    const int place = g * sharing + share;
    Terms<Real, N> terms = {};
    if (has_group) terms = part<N>(mine.first + g, share, sharing, count, f);
    lanes_.sync_block();
    for (int t = 0; t < N; ++t) sums[t * lanes + place] = terms.value[t];
    halve(sharing, share, [&](int to, int from) {
      for (int t = 0; t < N; ++t) {
        Real* of_group = sums + t * lanes + g * sharing;
        of_group[to] += of_group[from];
      }
    });
    if (!has_group || share > 0) return;
    for (int t = 0; t < N; ++t) terms.value[t] = sums[t * lanes + place];
    sink(int64_t{mine.first + g}, terms);
  }

 private:
  // Every step-th of a group's terms, from the first.
  template <int N, class F>
  FM_HD static Terms<Real, N> part(int g, int first, int step, int64_t count, F f) {
    Terms<Real, N> sum = {};
    FM_UNROLL(2)
    for (int e = first; e < static_cast<int>(count); e += step) {
      const Terms<Real, N> terms = f(int64_t{g}, int64_t{e});
      for (int t = 0; t < N; ++t) sum.value[t] += terms.value[t];
    }
    return sum;
  }

  // Adds up `count` numbers, a power of two, in halves, each the work of the lane with its index;
  // add(to, from). On return all lanes of the block see the sum, at 0.
  template <class Add>
  FM_HD void halve(int count, int index, Add add) {
    FM_UNROLL(1)
    for (int half = count >> 1; half > 0; half >>= 1) {
      lanes_.sync_block();
      if (index < half) add(index, index + half);
    }
    lanes_.sync_block();
  }

  Lanes lanes_;
};

}  // namespace fastmaml::FM_ISA
