// y = a + b.
#pragma once

#include "frame.h"

namespace fastmaml::FM_ISA {

struct Add {
  template <class Team, class Real>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    const Real *a = o.x[0], *b = o.x[1];
    Real* y = o.y;
    team.write(op.rows * op.in * o.samples, y, [=](int64_t i) { return a[i] + b[i]; });
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    to_inputs(team, op, o, o.y_bar);
  }

  template <class Team, class Real>
  FM_DEVICE static void forward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    const Real *a = o.x_dot[0], *b = o.x_dot[1];
    Real* y = o.y_dot;
    team.write(op.rows * op.in * o.samples, y,
               [=](int64_t i) { return (a ? a[i] : Real(0)) + (b ? b[i] : Real(0)); });
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void backward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    to_inputs(team, op, o, o.y_bar_dot);
  }

 private:
  // One after the other, since a and b may be the same value.
  template <class Team, class Real>
  FM_DEVICE static void to_inputs(Team& team, const Op& op, const Operands<Real>& o,
                                  const Real* y_bar) {
    for (int input = 0; input < 2; ++input) {
      Real* x_grad = o.x_grad[input];
      const bool add = o.add_x[input];
      if (!x_grad) continue;
      put_each(team, op.rows * op.in * o.samples, x_grad, add, [=](int64_t i) { return y_bar[i]; });
    }
    team.sync();
  }
};

}  // namespace fastmaml::FM_ISA
