// One task, or those that run in lockstep, from beginning to end: K inner steps on the support
// samples, the query loss, and the adjoint recursion back through all of it. With c_k the weight of
// the query loss at phi_k,
//
//   g_k = grad l_s(phi_k)     (phi, s)_{k+1} = update(phi_k, s_k, g_k)
//   task_loss = sum_k c_k l_q(phi_k)
//   v_K = c_K grad l_q(phi_K) + cotangents given
//   u_k = adjoint of g_k in the update;  v_k = v_{k+1} + H_k u_k + c_k grad l_q(phi_k)
//
// H_k u_k is the tangent of the gradient along u_k: forward_jvp, then backward_jvp. The same pass
// gives what u_k contributes to the gradients of all else that the support loss reads: other
// parameters, samples, targets and weights. No graph is kept, and values that do not change from
// step to step (fixed) are computed once, forward and backward. Where phi_0..phi_K are too much to
// keep, steps are computed again from checkpoints, to the same bits.
#pragma once

#include "task_view.h"
#include "update.h"

namespace fastmaml::FM_ISA {

template <class Team, class Real>
class InnerLoop : TaskView<Team, Real> {
 public:
  // `memory` has the workspace's numbers, `summed` call.summed_size; all lanes share both. Of tasks
  // in lockstep, gradients of initial parameters that all share are summed over the tasks, to
  // `totals`.
  FM_DEVICE InnerLoop(Team& team, const Call<Real>& call, const Workspace& workspace,
                      TaskMemory<Real> memory, Real* summed, int64_t task, Real* totals = nullptr)
      : View(team, call, workspace, memory, task),
        summed_(summed),
        totals_(totals ? totals : summed) {}

  FM_DEVICE_KNOWN void run() {
    gather_initial();
    fetch_ahead(call_.query, task_);
    if (call_.steps > 0) {
      support().forward(the<Place::fixed>(), support_values(0), parameters(0), support_draw(0));
    }
    if (call_.query.x) {
      query().forward(the<Place::fixed>(), query_values(), parameters(0), query_draw(0));
    }
    double loss[Team::most_tasks] = {};
    FM_UNROLL(1)
    for (int64_t k = 0; k < call_.steps; ++k) {
      if (team_.stopped()) return;
      if (counts(k)) add_query_loss(k, loss);
      inner_step(k);
    }
    if (call_.query.x) {
      add_query_loss(call_.steps, loss);
      write_prediction();
    }
    fetch_ahead(call_.support, task_ + 1);  // most often the task that this team runs next
    if (call_.task_loss && team_.rank() == 0) {
      for (int j = 0; j < team_.tasks(); ++j) call_.task_loss[task_ + j] = Real(loss[j]);
    }
    if (call_.adapted) scatter(phi(call_.steps), call_.adapted);
    if (call_.differentiate) adjoint();
    team_.sync();
  }

  // products = H vectors at the initial parameters.
  FM_DEVICE_KNOWN void hessian_vector_product() {
    gather_initial();
    support().forward(the<Place::fixed>(), support_values(0), parameters(0), support_draw(0));
    support_gradient(0, {});
    Real* u = part(ws_.u);
    Real* v = part(ws_.v);
    gather(call_.vectors, u);
    fill_zero(v, program_.adapted_size);
    team_.sync();
    add_hessian_product(0, u, gradients(v, v));
    scatter(v, call_.products);
    team_.sync();
  }

 private:
  using View = TaskView<Team, Real>;
  using View::call_, View::program_, View::task_, View::team_, View::ws_;
  using View::copy, View::fetch_ahead, View::fill_zero, View::gather, View::gather_initial,
      View::scatter;
  using View::loss_inputs, View::loss_gradients, View::support_samples;
  using View::part, View::phi, View::state_after, View::parameters, View::output, View::size_of;
  using View::query_values, View::query_bars, View::support_draw, View::query_draw;
  using View::support_values, View::support_bars, View::support_dots, View::support_bar_dots;

  // Made anew for every pass: a pass is a function of its own on a GPU, and what is known of the
  // rest of this object would be lost if it knew where that is.
  FM_DEVICE Network<Team, Real, SupportCount, OfSupport> support() const {
    return {team_, program_, size_of(call_.support), Side::support, support_samples()};
  }
  FM_DEVICE Network<Team, Real, QueryCount, OfQuery> query() const {
    return {team_, program_, size_of(call_.query), Side::query, support_samples()};
  }

  // ---- forward ----------------------------------------------------------------------------

  // Forward and backward on the support samples at phi_k; where the gradient goes.
  FM_DEVICE_KNOWN void support_gradient(int64_t k, const Gradients<Real>& gradient) {
    const Frame<Real> values = support_values(k), bars = support_bars(k);
    support().forward(the<Place::active>(), values, parameters(k), support_draw(k));
    const LossInputs<Real> inputs = loss_inputs(call_.support, values);
    const LossGradients<Real> to{at(bars, output(), inputs.samples), false, nullptr, nullptr};
    with_loss(loss_of(program_),
              [&](auto layer) { layer.backward(team_, inputs, LossSeed<Real>{1, nullptr}, to); });
    support().backward(the<Place::active>(), values, bars, parameters(k), gradient,
                       active_of(call_), support_draw(k));
  }

  FM_DEVICE_KNOWN void inner_step(int64_t k) {
    if (call_.fuse_step) {
      support_gradient(k, {phi(k + 1), phi(k), call_.rates, k, nullptr, task_, nullptr});
      return;
    }
    support_gradient(k, {state_after(k), nullptr, nullptr, 0, nullptr, task_, nullptr});
    const Real* state = call_.momentum != 0 && k > 0 ? state_after(k - 1) : nullptr;
    Sgd::step(team_, call_, k, phi(k), state, phi(k + 1), state_after(k));
  }

  // Whether the query loss after k steps counts: 0 times what has diverged is 0.
  FM_DEVICE bool counts(int64_t k) const {
    return call_.task_loss && (call_.weighs_steps || k == call_.steps) &&
           call_.step_weights[k] != 0;
  }

  // Adds c_k l_q(phi_k) of each task, if it counts; leaves the query's values behind.
  FM_DEVICE_KNOWN void add_query_loss(int64_t k, double* loss) {
    query().forward(the<Place::active>(), query_values(), parameters(k), query_draw(k));
    if (!counts(k)) return;
    const LossInputs<Real> inputs = loss_inputs(call_.query, query_values());
    Real* sample_loss = part(ws_.sample_loss);
    with_loss(loss_of(program_), [&](auto layer) { layer.forward(team_, inputs, sample_loss); });
    const int tasks = team_.tasks();
    for (int j = 0; j < tasks; ++j) {
      // In double: losses of several steps may cancel.
      const double sum = team_.total(inputs.samples, [&](int64_t i) {
        const int64_t at = i * tasks + j;
        return static_cast<double>(inputs.weight(at)) * static_cast<double>(sample_loss[at]);
      });
      loss[j] += call_.step_weights[k] * sum;
    }
    team_.sync();
  }

  FM_DEVICE void write_prediction() {
    const int64_t count = call_.query.size_of(task_);
    copy(at(query_values(), output(), count),
         call_.prediction + task_ * call_.query.count * call_.output_size,
         count * call_.output_size);
  }

  // ---- adjoint ----------------------------------------------------------------------------

  FM_DEVICE_KNOWN void adjoint() {
    const int64_t K = call_.steps;
    Real* v = part(ws_.v);
    Real* r = call_.momentum != 0 ? part(ws_.r) : nullptr;
    Real* u = part(ws_.u);
    const bool reads_query = (call_.task_loss_bar && counts(K)) || call_.prediction_bar;
    const bool starts_at_query = reads_query && call_.query_starts_v;
    if (!starts_at_query) fill_zero(v, program_.adapted_size);
    if (r) fill_zero(r, program_.adapted_size);
    clear_fixed_bars();
    team_.sync();
    if (call_.adapted_bar) add_adapted_bar(v);
    if (reads_query) add_query_gradient(K, starts_at_query ? nullptr : v, v);
    if (call_.through_steps) {
      int64_t taped = K - ws_.tape_steps;  // the first step whose activations are there
      FM_UNROLL(1)
      for (int64_t k = K - 1; k >= 0; --k) {
        if (team_.stopped()) return;
        const int64_t after = K - 1 - k;  // steps after this one
        if (call_.segment < K && after > 0 && after % call_.segment == 0) {
          if (!restore_segment(k)) return;
          taped = k + 1 - ws_.tape_steps;
        }
        if (k < taped && !call_.first_order) support_gradient(k, {});
        if (call_.fuse_adjoint) {
          // H u = -rate H v, so v itself is the direction; u has room for what comes of it.
          add_hessian_product(k, v, {u, v, call_.rates, k, call_.parameters, task_, summed_});
          swap(v, u);
        } else {
          Sgd::adjoint(team_, call_, k, state_after(k), v, r, u, summed_);
          if (!call_.first_order) add_hessian_product(k, u, gradients(v, v));
        }
        if (call_.task_loss_bar && counts(k)) {
          query().forward(the<Place::active>(), query_values(), parameters(k), query_draw(k));
          add_query_gradient(k, v, v);
        }
      }
    }
    backward_fixed();
    FM_UNROLL(1)
    for (int32_t slot = 0; slot < program_.slot_count; ++slot) {
      const Slot& s = program_.slots[slot];
      if (s.adapted) add_initial_gradient(s, call_.parameters[slot], v + s.offset);
    }
  }

  // Computes again what is kept of the segment that ends with the step `last`, whose own phi_{k+1}
  // nobody needs any more. False: stopped.
  FM_DEVICE_KNOWN bool restore_segment(int64_t last) {
    const int64_t first = last < call_.segment ? 0 : last + 1 - call_.segment;
    if (first == 0) gather_initial();
    FM_UNROLL(1)
    for (int64_t k = first; k < last; ++k) {
      if (team_.stopped()) return false;
      inner_step(k);
    }
    if (call_.keep_states) {
      inner_step(last);
    } else if (!call_.first_order) {
      support_gradient(last, {});
    }
    return true;
  }

  FM_DEVICE void add_initial_gradient(const Slot& slot, const Parameter<Real>& initial,
                                      const Real* v) {
    Real* to = initial.gradient(slot, task_, totals_);
    const int64_t tasks = team_.tasks();
    if (!to) return;
    if (initial.per_task || tasks == 1) {
      team_.write(slot.size, to, [=](int64_t i) { return to[i] + v[i]; });
    } else {
      team_.template reduce<1>(
          Along::element, slot.size / tasks, tasks,
          [=](int64_t i, int64_t j) { return Terms<Real, 1>{{v[i * tasks + j]}}; },
          [=](int64_t i, const Terms<Real, 1>& sum) { to[i] += sum.value[0]; });
    }
  }

  FM_DEVICE void add_adapted_bar(Real* v) {
    FM_UNROLL(1)
    for (int32_t slot = 0; slot < program_.slot_count; ++slot) {
      const Slot& s = program_.slots[slot];
      if (s.adapted && call_.adapted_bar[slot]) {
        copy(call_.adapted_bar[slot] + task_ * s.size, v + s.offset, s.size);
      }
    }
    team_.sync();
  }

  // The adapted are written from `start`; null: from zero. All others are added to.
  FM_DEVICE Gradients<Real> gradients(const Real* start, Real* adapted) const {
    return {adapted, start, nullptr, 0, call_.parameters, task_, summed_};
  }

  // Adds the gradient of c_k task_loss_bar l_q(phi_k), and at phi_K of prediction_bar, to `start`,
  // which gives v, and to all else that the query reads. The query's values are those of phi_k.
  FM_DEVICE_KNOWN void add_query_gradient(int64_t k, const Real* start, Real* v) {
    const Frame<Real> values = query_values(), bars = query_bars();
    const LossInputs<Real> inputs = loss_inputs(call_.query, values);
    LossGradients<Real> to = loss_gradients(call_.query, query_wanted_of(call_), bars);
    if (k == call_.steps && call_.prediction_bar && to.prediction) {
      const Real* given = call_.prediction_bar + task_ * call_.query.count * call_.output_size;
      put_each(team_, inputs.samples * call_.output_size, to.prediction, to.add_prediction,
               [=](int64_t i) { return given[i]; });
      to.add_prediction = true;
      team_.sync();
    }
    if (call_.task_loss_bar && counts(k)) {
      const LossSeed<Real> seed{Real(call_.step_weights[k]), call_.task_loss_bar + task_};
      with_loss(loss_of(program_), [&](auto layer) { layer.backward(team_, inputs, seed, to); });
    }
    query().backward(the<Place::active>(), values, bars, parameters(k), gradients(start, v),
                     query_wanted_of(call_), query_draw(k));
  }

  // Adds H_k u to v, where `to` says, and the same for all else that the support loss reads.
  FM_DEVICE_KNOWN void add_hessian_product(int64_t k, const Real* u, const Gradients<Real>& to) {
    const Frame<Real> values = support_values(k), bars = support_bars(k);
    const Frame<Real> dots = support_dots(), bar_dots = support_bar_dots();
    const Parameters<Real> along{u, nullptr, task_};
    support().forward_jvp(values, dots, parameters(k), along, support_draw(k));
    const LossInputs<Real> inputs = loss_inputs(call_.support, values);
    with_loss(loss_of(program_), [&](auto layer) {
      layer.backward_jvp(team_, inputs, at(dots, output(), inputs.samples),
                         loss_gradients(call_.support, support_wanted_of(call_), bar_dots));
    });
    support().backward_jvp(values, bars, dots, bar_dots, parameters(k), along, to,
                           support_wanted_of(call_), support_draw(k));
  }

  FM_DEVICE static void swap(Real*& a, Real*& b) {
    Real* const other = a;
    a = b;
    b = other;
  }

  FM_DEVICE void clear_fixed_bars() { fill_zero(part(ws_.fixed_bars), ws_.fixed_bars_size); }

  // Takes the cotangents that all steps left on fixed values back to what those depend on.
  FM_DEVICE void backward_fixed() {
    if (call_.steps > 0 && call_.through_steps) {
      support().backward(the<Place::fixed>(), support_values(0), support_bar_dots(), parameters(0),
                         gradients(nullptr, nullptr), support_wanted_of(call_), support_draw(0));
    }
    if (call_.query.x) {
      query().backward(the<Place::fixed>(), query_values(), query_bars(), parameters(0),
                       gradients(nullptr, nullptr), query_wanted_of(call_), query_draw(0));
    }
  }

  Real* summed_;
  Real* totals_;
};

}  // namespace fastmaml::FM_ISA
