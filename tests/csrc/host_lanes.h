// The lanes of a thread block as threads of the host (team/team_block.h): what runs on a GPU runs
// here under the sanitizers. Copies to scratch memory arrive when they are waited for, no sooner.
#pragma once

#include <barrier>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "team/team_block.h"

namespace fastmaml::FM_ISA {

// What the lanes of a cluster of blocks share.
template <class Real>
struct HostCluster {
  HostCluster(int blocks, int lanes, int scratch_size) : lanes(lanes), arrived(blocks * lanes) {
    for (int b = 0; b < blocks; ++b) {
      arrived_in_block.push_back(std::make_unique<std::barrier<>>(lanes));
      scratch.emplace_back(scratch_size * sizeof(Real) / sizeof(double));
    }
  }

  int lanes;  // of a block
  std::barrier<> arrived;
  std::vector<std::unique_ptr<std::barrier<>>> arrived_in_block;
  std::vector<std::vector<double>> scratch;
};

template <class Real>
class HostLanes {
 public:
  // Lane `index` of all.
  HostLanes(int index, HostCluster<Real>& cluster)
      : rank_(index % cluster.lanes), block_(index / cluster.lanes), cluster_(&cluster) {}

  int rank() const { return rank_; }
  int size() const { return cluster_->lanes; }
  int log_size() const { return std::countr_zero(static_cast<unsigned>(size())); }
  int block() const { return block_; }
  int blocks() const { return static_cast<int>(cluster_->scratch.size()); }
  int log_blocks() const { return std::countr_zero(static_cast<unsigned>(blocks())); }
  void sync_block() { cluster_->arrived_in_block[block_]->arrive_and_wait(); }
  void sync() { cluster_->arrived.arrive_and_wait(); }
  Real* scratch() { return reinterpret_cast<Real*>(cluster_->scratch[block_].data()); }
  int scratch_size() const {
    return static_cast<int>(cluster_->scratch[block_].size() * sizeof(double) / sizeof(Real));
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

  int rank_, block_;
  HostCluster<Real>* cluster_;
  std::vector<Copy> copies_;
};

}  // namespace fastmaml::FM_ISA
