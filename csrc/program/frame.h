// Frames: where the numbers of a pass are, and what of them one op reads and writes.
#pragma once

#include "../team/team.h"
#include "call.h"
#include "program.h"

namespace fastmaml::FM_ISA {

// One number for every element of every value, by the layout of `Value`. `input` and `fixed`
// may be null where a pass has none (tangents: nothing that is fixed has one).
template <class Real>
struct Frame {
  Real* input;
  Real* fixed;
  Real* active;
};

// The same pointer, to the beginning of a part of a task's memory. A kernel that is compiled for
// one call is told here that it is aligned, and in which memory it is.
template <class Real>
FM_HD Real* part_of_task(Real* part) {
#ifdef FM_COMPILED
  if (known::is_all_shared) {
    uint64_t address;  // through registers, or the compiler would undo both conversions
    asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(part));
    part = static_cast<Real*>(__cvta_shared_to_generic(address));
  }
  __builtin_assume(part != nullptr);
  part = static_cast<Real*>(__builtin_assume_aligned(part, 16));
#endif
  return part;
}

template <class Real>
FM_HD Real* at(const Frame<Real>& frame, const Value& value, int64_t samples) {
  if (value.place == Place::input) return frame.input;
  const int64_t offset = value.sample_offset * samples + value.task_offset;
  if (value.place == Place::active) return part_of_task(frame.active) + offset;
  return frame.fixed ? part_of_task(frame.fixed) + offset : nullptr;
}

// The current value of every parameter of one task: adapted ones lie together in `adapted`, the
// others are where the caller has them. Of tangents, `adapted` is all there is.
template <class Real>
struct Parameters {
  const Real* adapted;
  const Parameter<Real>* others;  // one a slot
  int64_t task;

  FM_HD const Real* operator()(const Slot* slots, int32_t slot) const {
    if (slot < 0) return nullptr;
    if (slots[slot].adapted) return part_of_task(adapted) + slots[slot].offset;
    return others ? others[slot].at(slots[slot], task) : nullptr;
  }
};

// Where a gradient goes: to = start + factor * gradient. A start that is null is zero.
template <class Real>
struct Accumulation {
  Real* to;  // null: not wanted
  const Real* start;
  Real factor;

  FM_HD void put(int64_t i, Real gradient) const {
    to[i] = start ? start[i] + factor * gradient : factor * gradient;
  }
};

// Where the gradients of parameters go. Those of adapted ones are written at `adapted`, from a
// start, and by factors that may be minus the rates of an inner step; the others' are added to.
template <class Real>
struct Gradients {
  Real* adapted;            // null: not wanted
  const Real* start;        // of the adapted; `adapted` itself to add to it, null for zero
  const Rate<Real>* rates;  // one a slot; null: factor 1
  int64_t step;
  const Parameter<Real>* others;  // one a slot
  int64_t task;
  Real* summed;

  // `is_first`: of the ops that add to the slot's gradient.
  FM_HD Accumulation<Real> operator()(const Slot* slots, int32_t slot, bool is_first) const {
    const Slot& s = slots[slot];
    if (!s.adapted) {
      Real* to = others ? others[slot].gradient(s, task, summed) : nullptr;
      return {to, to, Real(1)};
    }
    if (!adapted) return {nullptr, nullptr, Real(1)};
    Real* to = adapted + s.offset;
    return {to,
            !is_first ? to
            : start   ? start + s.offset
                      : nullptr,
            rates ? -*rates[slot].row(step) : Real(1)};
  }
};

// The support samples of the task, which the dual form multiplies by.
template <class Real>
struct Support {
  const Real* x;
  int64_t samples;
};

// Dropout's masks are a function of where they are drawn.
struct Draw {
  uint32_t seed;
  uint32_t task;
  uint32_t pass;
};

// What one op reads and writes in one of the four passes. Naming: for y = f(x; w), `_dot` is a
// tangent, `_bar` a cotangent, `_grad` where a pass writes the cotangent (backward) or the
// tangent of the cotangent (backward_jvp) of an operand; null tangents are zero, null
// destinations are not wanted.
template <class Real>
struct Operands {
  int64_t samples;
  bool of_support;  // whether these are the support samples
  Support<Real> support;
  Draw draw;
  const Real* x[2];
  const Real* x_dot[2];
  Real* first;  // of activations: f'(x), in the place of x, which nobody needs; null: not kept
  Real* y;
  Real* y_dot;
  const Real* y_bar;
  const Real* y_bar_dot;
  Real* x_grad[2];
  bool add_x[2];  // add to x_grad, or write it
  const Real* w[2];
  const Real* w_dot[2];
  Accumulation<Real> w_grad[2];
  Real* statistics;  // of norms, in the frames of x, x_dot, y_bar and y_bar_dot
  Real* statistics_dot;
  Real* statistics_bar;
  Real* statistics_bar_dot;
};

// destination = or += value
template <class Real>
FM_HD void put(Real* destination, Real value, bool add) {
  *destination = add ? *destination + value : value;
}

// The same for many, value(i) to the i-th. `add` is asked for once: in the loop it would keep the
// compiler from making vectors of it.
template <class Team, class Real, class F>
FM_HD void put_each(Team& team, int64_t count, Real* destination, bool add, F value) {
  if (add) {
    team.write(count, destination, [=](int64_t i) { return destination[i] + value(i); });
  } else {
    team.write(count, destination, value);
  }
}

template <class Team, class Real, class F>
FM_HD void put_each(Team& team, int64_t count, const Accumulation<Real>& to, F gradient) {
  if (to.start) {
    team.write(count, to.to, [=](int64_t i) { return to.start[i] + to.factor * gradient(i); });
  } else {
    team.write(count, to.to, [=](int64_t i) { return to.factor * gradient(i); });
  }
}

}  // namespace fastmaml::FM_ISA
