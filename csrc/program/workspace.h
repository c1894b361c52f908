// The memory that one team needs for one task at a time: where each part begins, in numbers.
//
// Where a team has little memory that is fast, parts lie there in the order of how often they are
// read, as far as they fit, and the others behind it: a part at `offset` < fast_size is in fast
// memory, any other at offset - fast_size of the slow.
#pragma once

#include "call.h"

namespace fastmaml {

// Where what the inner steps lead to is kept, counted back from what the last one leads to: of
// every `segment`-th in the first `checkpoints` places, of those between in a ring behind them.
struct Places {
  int64_t segment, checkpoints, ring;

  FM_HD int64_t of(int64_t back) const {
    if (segment == 1) return back % checkpoints;
    const int64_t between = back % segment;
    return between ? checkpoints + (between - 1) % ring : back / segment;
  }
  int64_t count() const { return checkpoints + ring; }
};

struct Workspace {
  int64_t phi;            // [phi_places.count(), phi_stride]
  int64_t states;         // [state_places.count(), P]: s_{k+1}, which is g_k without momentum
  int64_t v, r, u;        // [P] each: adjoints of phi, of s, of g; u may lie in another's place
  int64_t support_fixed;  // frames of the fixed values
  int64_t query_fixed;
  int64_t fixed_bars;  // and of their cotangents: the support's, then the query's
  int64_t query_fixed_bar, fixed_bars_size;
  int64_t tape;  // [tape_steps] times the active values and their cotangents
  // Active values' tangents and those of their cotangents; in the same place, since no Hessian
  // product comes between the query's forward and backward pass, those passes' frames.
  int64_t dot, query_values;
  int64_t bar_dot, query_bars;
  int64_t sample_loss;  // [m, tasks in lockstep]
  int64_t size;         // of all
  int64_t fast_size;    // of those in fast memory

  Places phi_places, state_places;
  int64_t phi_stride;   // P, and what is left of 16 bytes
  int64_t tape_steps;   // whose activations are kept: a ring
  int64_t tape_stride;  // between steps; half of it is one frame
  int64_t trajectory;   // numbers of phi, states and tape
};

// The memory of one team: workspace.fast_size numbers, and the others.
template <class Real>
struct TaskMemory {
  Real* fast;
  Real* slow = nullptr;

  FM_HD Real* at(const Workspace& workspace, int64_t offset) const {
    return offset < workspace.fast_size ? fast + offset : slow + (offset - workspace.fast_size);
  }
};

// So many numbers, and what is left of a cache line: what comes next begins on the boundary of one,
// for either type of number.
int64_t aligned(int64_t numbers);

// `fast_memory`: how many numbers of fast memory there are; all is fast where they are enough.
template <class Real>
Workspace plan_workspace(const Call<Real>& call, int64_t fast_memory = INT64_MAX);

}  // namespace fastmaml
