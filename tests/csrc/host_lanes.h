// The lanes of a thread block as threads of the host (team/team_block.h): what runs on a GPU runs
// here under the sanitizers. Copies to scratch memory arrive when they are waited for, no sooner.
#pragma once

#include <barrier>
#include <bit>
#include <cstdint>
#include <vector>

#include "team/team_block.h"

namespace fastmaml::FM_ISA {

// What the lanes of one block share.
template <class Real>
struct HostBlock {
  HostBlock(int lanes, int scratch_size)
      : lanes(lanes), arrived(lanes), scratch(scratch_size * sizeof(Real) / sizeof(double)) {}

  int lanes;
  std::barrier<> arrived;
  std::vector<double> scratch;
};

template <class Real>
class HostLanes {
 public:
  HostLanes(int rank, HostBlock<Real>& block) : rank_(rank), block_(&block) {}

  int rank() const { return rank_; }
  int size() const { return block_->lanes; }
  int log_size() const { return std::countr_zero(static_cast<unsigned>(block_->lanes)); }
  void sync() { block_->arrived.arrive_and_wait(); }
  Real* scratch() { return reinterpret_cast<Real*>(block_->scratch.data()); }
  int scratch_size() const {
    return static_cast<int>(block_->scratch.size() * sizeof(double) / sizeof(Real));
  }
  // Every other row of numbers, so that both ways are gone.
  bool is_far(const Real* from) const { return reinterpret_cast<uintptr_t>(from) / 64 % 2; }
  void copy_far(const Real* from, Real* to) { copies_.push_back({from, to}); }
  void wait_for_copies() {
    for (const Copy& copy : copies_) *copy.to = *copy.from;
    copies_.clear();
  }

 private:
  struct Copy {
    const Real* from;
    Real* to;
  };

  int rank_;
  HostBlock<Real>* block_;
  std::vector<Copy> copies_;
};

}  // namespace fastmaml::FM_ISA
