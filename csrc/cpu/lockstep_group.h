// One group of tasks in lockstep: brought together, run, and taken apart.
#pragma once

#include "../program/inner_loop.h"
#include "lockstep.h"

namespace fastmaml::FM_ISA {

template <class Real>
struct LockstepGroup {
  using V = Vec<Real>;
  static constexpr int width = V::width;

  const LockstepCall<Real>& of;
  int64_t first, last;  // its tasks

  // Of all groups of a call: what all tasks share.
  static void begin(const LockstepCall<Real>& call) {
    for (const Together<const Real>& x : call.shared) {
      for (int64_t i = 0; i < x.size; ++i) V::broadcast(x.tensor[i]).store(x.group + i * width);
    }
  }

  // `summed`: of the whole call.
  void run(const Workspace& workspace, Real* memory, TeamShared* shared, Real* summed) const {
    for (const auto& x : of.inputs) bring_together(x);
    for (const auto& x : of.cotangents) {
      bring_together(x);
      for (int64_t i = 0; i < x.size; ++i) {
        for (int64_t l = last - first; l < width; ++l) x.group[i * width + l] = 0;
      }
    }
    for (const auto& x : of.labels) {
      for (int64_t i = 0; i < x.size; ++i) {
        for (int l = 0; l < width; ++l) x.group[i * width + l] = x.tensor[task(l) * x.size + i];
      }
    }
    for (const auto& x : of.gradients) {
      for (int64_t i = 0; i < x.size; ++i) V::zero().store(x.group + i * width);
    }
    TeamCpu<Real> team = TeamCpu<Real>::in_lockstep(shared);
    InnerLoop<TeamCpu<Real>, Real> loop(team, of.call(), workspace, {memory}, of.sums, 0, summed);
    if (of.call().vectors) {
      loop.hessian_vector_product();
    } else {
      loop.run();
    }
    for (const auto& x : of.results) take_apart(x);
    for (const auto& x : of.gradients) take_apart(x);
  }

  // Adds the sums of all groups so far to those of the whole call, lane by lane.
  static void add_sums(const LockstepCall<Real>& call, Real* to) {
    for (const auto& sum : call.summed) {
      const Real* from = call.sums + sum.group_offset;
      for (int64_t i = 0; i < sum.size; ++i) {
        if (!sum.is_together) {
          to[sum.offset + i] += from[i];
          continue;
        }
        for (int l = 0; l < width; ++l) to[sum.offset + i] += from[i * width + l];
      }
    }
  }

 private:
  int64_t task(int lane) const { return first + lane < last ? first + lane : last - 1; }

  // A square of numbers at a time, turned around in registers.
  void bring_together(const Together<const Real>& x) const {
    for (int64_t i = 0; i < x.size; i += width) {
      const int64_t count = x.size - i < width ? x.size - i : width;
      V square[width];
      for (int l = 0; l < width; ++l) {
        const Real* from = x.tensor + task(l) * x.size + i;
        square[l] = count == width ? V::load(from) : V::load(from, static_cast<int>(count));
      }
      transpose<width / 2>(square);
      for (int64_t e = 0; e < count; ++e) square[e].store(x.group + (i + e) * width);
    }
  }

  void take_apart(const Together<Real>& x) const {
    for (int64_t i = 0; i < x.size; i += width) {
      const int64_t count = x.size - i < width ? x.size - i : width;
      V square[width];
      for (int64_t e = 0; e < width; ++e) {
        square[e] = e < count ? V::load(x.group + (i + e) * width) : V::zero();
      }
      transpose<width / 2>(square);
      for (int64_t l = 0; l < last - first; ++l) {
        Real* to = x.tensor + (first + l) * x.size + i;
        if (count == width) {
          square[l].store(to);
        } else {
          square[l].store(to, static_cast<int>(count));
        }
      }
    }
  }
};

}  // namespace fastmaml::FM_ISA
