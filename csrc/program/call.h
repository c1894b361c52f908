// One call of an executor: the tensors of T tasks as raw pointers, null where there is none.
// Arrays over tasks come first-axis-major and contiguous; n and m are the padded sizes.
#pragma once

#include <cstdint>

#include "../team/team.h"
#include "program.h"

namespace fastmaml {

template <class Real>
struct Samples {
  int64_t count;          // n: samples a task, padding included
  const int64_t* size;    // [T] real samples a task; null: all
  const Real* x;          // [T, n, input]
  const int64_t* labels;  // [T, n] classes, or
  const Real* target;     // [T, n, output] floats
  const Real* weights;    // [T, n]; null: 1 / size
  Real* x_grad;           // gradients in the same shapes, zero on entry; null: not wanted
  Real* target_grad;
  Real* weights_grad;
  const uint8_t* wanted;  // one a value: whether its cotangent is needed

  FM_HD int64_t size_of(int64_t task) const { return size ? size[task] : count; }
};

template <class Real>
struct Rate {
  const Real* data;  // [rows, elements]; inner step k reads row min(k, rows - 1)
  int64_t rows;
  int64_t elements;  // 1, or the slot's size
  int64_t grad;      // offset of its gradient in the summed gradients; -1: not wanted

  FM_HD int64_t row_index(int64_t k) const { return k < rows ? k : rows - 1; }
  FM_HD const Real* row(int64_t k) const { return data + row_index(k) * elements; }
};

template <class Real>
struct Parameter {
  const Real* data;  // the slot's initial value; null: zero
  bool per_task;     // [T, size] rather than [size]
  Real* task_grad;   // its gradient if per_task, [T, size], zero on entry; null: not wanted
  int64_t grad;      // its gradient's offset in the summed gradients if shared; -1: not wanted

  FM_HD const Real* at(const Slot& slot, int64_t task) const {
    return data + (per_task ? task * slot.size : 0);
  }
  FM_HD Real* gradient(const Slot& slot, int64_t task, Real* summed) const {
    if (per_task) return task_grad ? task_grad + task * slot.size : nullptr;
    return grad >= 0 ? summed + grad : nullptr;
  }
};

// A gradient that is summed over tasks: where it lies in the summed gradients, and where it goes.
template <class Real>
struct SummedGradient {
  Real* to;
  int64_t offset;
  int64_t size;
};

template <class Real>
struct Call {
  Program program;
  int64_t tasks;
  int64_t steps;
  double momentum;
  const double* step_weights;  // [K + 1]
  bool weighs_steps;           // whether one before the last is not zero
  bool first_order;
  uint32_t seed;

  const Parameter<Real>* parameters;  // one a slot
  const Rate<Real>* rates;            // one a slot, read where adapted
  Samples<Real> support;
  Samples<Real> query;  // x null: no query

  const uint8_t* active;  // one a value: what an inner step's own gradient needs cotangents of
  int64_t output_size;    // numbers a sample of the prediction

  Real* task_loss;       // [T]; null: no loss is read
  Real* prediction;      // [T, m, output], zero on entry
  Real* const* adapted;  // one a slot, [T, size]; null, or null entries: not wanted

  bool differentiate;              // run the adjoint recursion
  bool through_steps;              // through the inner steps too, not just the query's gradients
  const Real* task_loss_bar;       // [T]
  const Real* prediction_bar;      // [T, m, output]
  const Real* const* adapted_bar;  // one a slot, [T, size]
  int64_t summed_size;             // numbers in the gradients that are summed over tasks

  const Real* const* vectors;  // of hvp: one a slot, [T, size]
  Real* const* products;       // H u in the same shapes

  // What is kept of every inner step for the adjoint, rather than of the last ones alone.
  bool keep_phi;
  bool keep_states;

  // Of how many steps at a time; `steps`: of all. Where there are more segments, phi and s are kept
  // at their ends too, and the adjoint computes each segment again before it goes through it, but
  // for the last. The first is the shorter one where they do not come out even. Of so many of the
  // last steps of a segment activations are kept, and of the others computed again; 0: none is
  // read.
  int64_t segment;
  int64_t tape_steps;
  int64_t memory_budget;  // bytes that all teams may take beside the tensors; or
  static constexpr int64_t no_budget = INT64_MAX;

  // Whether an inner step's products write phi_{k+1} rather than its gradient; and whether those of
  // the adjoint take v for their direction, not u = -rate v, and multiply what they add to v.
  bool fuse_step;
  bool fuse_adjoint;

  // Whether the query's gradient at phi_K, if there is one, is all of v so far, and is written.
  bool query_starts_v;
};

}  // namespace fastmaml
