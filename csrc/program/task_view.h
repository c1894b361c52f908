// Where everything of one task is, or of those in lockstep: parameters, frames, and what a loss
// reads.
#pragma once

#include "loss.h"
#include "network.h"
#include "workspace.h"

namespace fastmaml::FM_ISA {

template <class Team, class Real>
class TaskView {
 protected:
  FM_DEVICE TaskView(Team& team, const Call<Real>& call, const Workspace& workspace,
                     TaskMemory<Real> memory, int64_t task)
      : team_(team),
        call_(call),
        program_(call.program),
        ws_(workspace),
        memory_(memory),
        task_(task) {}

  // ---- parameters -------------------------------------------------------------------------

  FM_DEVICE Real* part(int64_t offset) const { return memory_.at(ws_, offset); }

  // phi_k, as long as it is kept.
  FM_DEVICE Real* phi(int64_t k) const {
    return part(ws_.phi) + ws_.phi_places.of(call_.steps - k) * ws_.phi_stride;
  }
  // s_{k+1}, or g_k where there is no momentum.
  FM_DEVICE Real* state_after(int64_t k) const {
    return part(ws_.states) + ws_.state_places.of(call_.steps - 1 - k) * program_.adapted_size;
  }
  FM_DEVICE Parameters<Real> parameters(int64_t k) const {
    return {phi(k), call_.parameters, task_};
  }

  FM_DEVICE_KNOWN void gather_initial() {
    FM_UNROLL(1)
    for (int32_t slot = 0; slot < program_.slot_count; ++slot) {
      const Slot& s = program_.slots[slot];
      if (!s.adapted) continue;
      const Parameter<Real>& initial = call_.parameters[slot];
      if (initial.data && (initial.per_task || team_.tasks() == 1)) {
        copy(initial.at(s, task_), phi(0) + s.offset, s.size);
      } else if (initial.data) {
        spread(initial.data, phi(0) + s.offset, s.size / team_.tasks());
      } else {
        fill_zero(phi(0) + s.offset, s.size);
      }
    }
    team_.sync();
  }
  FM_DEVICE void gather(const Real* const* slots, Real* to) {
    FM_UNROLL(1)
    for (int32_t slot = 0; slot < program_.slot_count; ++slot) {
      const Slot& s = program_.slots[slot];
      if (s.adapted) copy(slots[slot] + task_ * s.size, to + s.offset, s.size);
    }
  }
  FM_DEVICE void scatter(const Real* from, Real* const* slots) {
    FM_UNROLL(1)
    for (int32_t slot = 0; slot < program_.slot_count; ++slot) {
      const Slot& s = program_.slots[slot];
      if (s.adapted && slots[slot]) copy(from + s.offset, slots[slot] + task_ * s.size, s.size);
    }
  }
  FM_DEVICE void copy(const Real* from, Real* to, int64_t count) {
    team_.write(count, to, [=](int64_t i) { return from[i]; });
  }
  // The same numbers to all tasks in lockstep.
  FM_DEVICE void spread(const Real* from, Real* to, int64_t count) {
    const int64_t tasks = team_.tasks();
    team_.map(Along::element, count, tasks,
              [=](int64_t i, int64_t j) { to[i * tasks + j] = from[i]; });
  }
  FM_DEVICE void fill_zero(Real* to, int64_t count) {
    team_.write(count, to, [](int64_t) { return Real(0); });
  }

  // ---- frames -----------------------------------------------------------------------------

  FM_DEVICE static Real* row(Real* base, int64_t task, int64_t size) {
    return base ? base + task * size : nullptr;
  }
  FM_DEVICE Real* input_of(const Samples<Real>& samples) const {
    // Frames hold mutable pointers; nothing writes to the frame of values' input.
    return const_cast<Real*>(samples.x) + task_ * samples.count * input_size();
  }
  // Of any task, if there is one of this index.
  FM_DEVICE void fetch_ahead(const Samples<Real>& samples, int64_t task) {
    const int64_t size = samples.count * input_size();
    if (samples.x && task < call_.tasks) team_.fetch_ahead(samples.x + task * size, size);
  }
  FM_DEVICE int64_t input_size() const { return program_.values[0].sample_size; }
  FM_DEVICE int64_t size_of(const Samples<Real>& samples) const {
    return samples.x ? samples.size_of(task_) : 0;
  }
  FM_DEVICE Support<Real> support_samples() const {
    return {call_.support.x ? input_of(call_.support) : nullptr, size_of(call_.support)};
  }

  FM_DEVICE Real* tape(int64_t k) const {
    return part(ws_.tape) + k % ws_.tape_steps * ws_.tape_stride;
  }
  FM_DEVICE Frame<Real> support_values(int64_t k) const {
    return {input_of(call_.support), part(ws_.support_fixed), tape(k)};
  }
  FM_DEVICE Frame<Real> support_bars(int64_t k) const {
    return {nullptr, nullptr, tape(k) + ws_.tape_stride / 2};
  }
  FM_DEVICE Frame<Real> support_dots() const { return {nullptr, nullptr, part(ws_.dot)}; }
  FM_DEVICE Frame<Real> support_bar_dots() const {
    return {row(call_.support.x_grad, task_, call_.support.count * input_size()),
            part(ws_.fixed_bars), part(ws_.bar_dot)};
  }
  FM_DEVICE Frame<Real> query_values() const {
    return {input_of(call_.query), part(ws_.query_fixed), part(ws_.query_values)};
  }
  FM_DEVICE Frame<Real> query_bars() const {
    return {row(call_.query.x_grad, task_, call_.query.count * input_size()),
            part(ws_.query_fixed_bar), part(ws_.query_bars)};
  }
  FM_DEVICE const Value& output() const { return program_.values[program_.output]; }

  FM_DEVICE Draw support_draw(int64_t k) const {
    return {call_.seed, static_cast<uint32_t>(task_), static_cast<uint32_t>(2 * k)};
  }
  FM_DEVICE Draw query_draw(int64_t k) const {
    return {call_.seed, static_cast<uint32_t>(task_), static_cast<uint32_t>(2 * k + 1)};
  }

  // ---- losses -----------------------------------------------------------------------------

  FM_DEVICE LossInputs<Real> loss_inputs(const Samples<Real>& samples,
                                         const Frame<Real>& values) const {
    const int64_t count = samples.size_of(task_), first = task_ * samples.count;
    return {program_.label_smoothing,
            count,
            call_.output_size / team_.tasks(),
            at(values, output(), count),
            samples.labels ? samples.labels + first : nullptr,
            samples.target ? samples.target + first * call_.output_size : nullptr,
            samples.weights ? samples.weights + first : nullptr};
  }
  template <class Wanted>
  FM_DEVICE LossGradients<Real> loss_gradients(const Samples<Real>& samples, Wanted wanted,
                                               const Frame<Real>& bars) const {
    return {wanted[program_.output] ? at(bars, output(), samples.size_of(task_)) : nullptr,
            output().place != Place::active,
            row(samples.target_grad, task_, samples.count * call_.output_size),
            row(samples.weights_grad, task_, samples.count)};
  }

  Team& team_;
  const Call<Real>& call_;
  const Program& program_;
  const Workspace& ws_;
  TaskMemory<Real> memory_;
  int64_t task_;
};

}  // namespace fastmaml::FM_ISA
