// The four passes over a program's ops, for one task. Each binds an op's operands from frames
// and calls the function of its kind. What they are given comes by value: a function that is
// compiled once would read it from memory.
#pragma once

#include "ops.h"

namespace fastmaml::FM_ISA {

// A program with the samples of one task bound to it. A pass runs over the ops whose output is
// of one `place`: fixed or active. `Count` is how many samples, `Of` whose they are: a number and a
// side, or what is known of them.
template <class Team, class Real, class Count = int64_t, class Of = Side>
class Network {
 public:
  FM_HD Network(Team& team, const Program& program, int64_t samples, Side of = Side::support,
                Support<Real> support = {})
      : team_(team), ops_(program), samples_(samples), of_(of), support_(support) {}

  // Writes the values.
  template <class WhichPlace>
  FM_DEVICE_ONCE void forward(WhichPlace place, Frame<Real> values, Parameters<Real> parameters,
                              Draw draw) {
    ops_.forward([&](const Op& op, auto kind) {
      if (!is_of(place, op)) return;
      Operands<Real> o = bind(op, values, parameters, draw);
      with_rule(kind, [&](auto rule) { rule.forward(team_, op, o); });
    });
  }

  // Writes or adds to the cotangents of the values for which `wanted` holds, and to `gradients`.
  template <class WhichPlace, class Wanted>
  FM_DEVICE_ONCE void backward(WhichPlace place, Frame<Real> values, Frame<Real> bars,
                               Parameters<Real> parameters, Gradients<Real> gradients,
                               Wanted wanted, Draw draw) {
    ops_.backward([&](const Op& op, auto kind) {
      if (!is_of(place, op)) return;
      Operands<Real> o = bind(op, values, parameters, draw);
      bind_bars(op, o, bars);
      bind_gradients(op, o, bars, gradients, wanted);
      with_rule(kind, [&](auto rule) { rule.backward(team_, op, o); });
    });
  }

  // Writes the tangents of the active values, from those of the adapted parameters and, where
  // dots.input is not null, of the input.
  FM_DEVICE_ONCE void forward_jvp(Frame<Real> values, Frame<Real> dots, Parameters<Real> parameters,
                                  Parameters<Real> parameter_dots, Draw draw) {
    ops_.forward([&](const Op& op, auto kind) {
      if (!is_of(Place::active, op)) return;
      Operands<Real> o = bind(op, values, parameters, draw);
      bind_dots(op, o, dots, parameter_dots);
      with_rule(kind, [&](auto rule) { rule.forward_jvp(team_, op, o); });
    });
  }

  // The tangent of `backward` over the active ops: writes or adds to the tangents of the
  // cotangents, and to `gradients`.
  template <class Wanted>
  FM_DEVICE_ONCE void backward_jvp(Frame<Real> values, Frame<Real> bars, Frame<Real> dots,
                                   Frame<Real> bar_dots, Parameters<Real> parameters,
                                   Parameters<Real> parameter_dots, Gradients<Real> gradients,
                                   Wanted wanted, Draw draw) {
    ops_.backward([&](const Op& op, auto kind) {
      if (!is_of(Place::active, op)) return;
      Operands<Real> o = bind(op, values, parameters, draw);
      bind_bars(op, o, bars);
      bind_dots(op, o, dots, parameter_dots);
      o.y_bar_dot = at(bar_dots, ops_.value(op.output), samples_);
      o.statistics_bar_dot = statistics(op, bar_dots);
      bind_gradients(op, o, bar_dots, gradients, wanted);
      with_rule(kind, [&](auto rule) { rule.backward_jvp(team_, op, o); });
    });
  }

 private:
  // Whether a pass over the ops of one place goes over this one.
  FM_DEVICE bool is_of(Place place, const Op& op) const {
    return (op.side == Side::both || op.side == of_) && op.active == (place == Place::active);
  }

  FM_DEVICE Real* statistics(const Op& op, const Frame<Real>& frame) const {
    return op.statistics < 0 ? nullptr : at(frame, ops_.value(op.statistics), samples_);
  }

  FM_DEVICE Operands<Real> bind(const Op& op, const Frame<Real>& values,
                                const Parameters<Real>& parameters, Draw draw) const {
    Operands<Real> o{};
    o.samples = samples_;
    o.of_support = of_ == Side::support;
    o.support = support_;
    o.draw = draw;
    for (int j = 0; j < 2; ++j) {
      if (op.input[j] >= 0) o.x[j] = at(values, ops_.value(op.input[j]), samples_);
      o.w[j] = parameters(ops_.slots(), op.parameter[j]);
    }
    if (op.keeps_first) o.first = at(values, ops_.value(op.input[0]), samples_);
    o.y = at(values, ops_.value(op.output), samples_);
    o.statistics = statistics(op, values);
    return o;
  }

  FM_DEVICE void bind_bars(const Op& op, Operands<Real>& o, const Frame<Real>& bars) const {
    o.y_bar = at(bars, ops_.value(op.output), samples_);
    o.statistics_bar = statistics(op, bars);
  }

  FM_DEVICE void bind_dots(const Op& op, Operands<Real>& o, const Frame<Real>& dots,
                           const Parameters<Real>& parameter_dots) const {
    for (int j = 0; j < 2; ++j) {
      if (op.input[j] >= 0) o.x_dot[j] = at(dots, ops_.value(op.input[j]), samples_);
      o.w_dot[j] = parameter_dots(ops_.slots(), op.parameter[j]);
    }
    o.y_dot = at(dots, ops_.value(op.output), samples_);
    o.statistics_dot = statistics(op, dots);
  }

  // Cotangents of active values are written by the first op that adds to them; those of other
  // values gather what every inner step adds.
  template <class Wanted>
  FM_DEVICE void bind_gradients(const Op& op, Operands<Real>& o, const Frame<Real>& to,
                                const Gradients<Real>& gradients, Wanted wanted) const {
    for (int j = 0; j < 2; ++j) {
      if (op.input[j] >= 0 && wanted[op.input[j]]) {
        const Value& value = ops_.value(op.input[j]);
        o.x_grad[j] = at(to, value, samples_);
        o.add_x[j] = value.place != Place::active || !op.first_input[j];
      }
      const int32_t slot = op.parameter[j];
      if (slot >= 0) {
        o.w_grad[j] = gradients(ops_.slots(), slot, op.first_parameter[j]);
      }
    }
  }

  Team& team_;
  Ops ops_;
  Count samples_;
  Of of_;
  Support<Real> support_;
};

}  // namespace fastmaml::FM_ISA
