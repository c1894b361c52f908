// y = x w^T + b, with x [rows, in], w [out, in], b [out].
//
//   backward       x_bar = y_bar w             w_bar = y_bar^T x              b_bar = sum y_bar
//   forward_jvp    y'    = x' w^T + x w'^T + b'
//   backward_jvp   x_bar'= y_bar' w + y_bar w' w_bar'= y_bar'^T x + y_bar^T x' b_bar'= sum y_bar'
#pragma once

#include "frame.h"

namespace fastmaml::FM_ISA {

struct Linear {
  template <class Real>
  using In = View<const Real>;

  template <class Team, class Real>
  static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    product(team, op, o, o.x[0], o.w[0], In<Real>{o.w[1], 0, 1}, o.y);
    team.sync();
  }

  template <class Team, class Real>
  static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    input_gradient(team, op, o, o.y_bar, o.w[0], o.add_x[0]);
    weight_gradient(team, op, o, o.y_bar, o.x[0], o.add_w[0]);
    bias_gradient(team, op, o, o.y_bar);
    team.sync();
  }

  template <class Team, class Real>
  static void forward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    In<Real> init{o.w_dot[1], 0, 1};
    if (o.x_dot[0]) {
      product(team, op, o, o.x_dot[0], o.w[0], init, o.y_dot);
      init = In<Real>{o.y_dot, op.out, 1};
      team.sync();
    }
    if (o.w_dot[0]) {
      product(team, op, o, o.x[0], o.w_dot[0], init, o.y_dot);
    } else if (!o.x_dot[0]) {
      // Only the bias has a tangent, or nothing has.
      team.each(op.rows * o.samples * op.out,
                [&](int64_t i) { o.y_dot[i] = o.w_dot[1] ? o.w_dot[1][i % op.out] : Real(0); });
    }
    team.sync();
  }

  template <class Team, class Real>
  static void backward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    input_gradient(team, op, o, o.y_bar_dot, o.w[0], o.add_x[0]);
    weight_gradient(team, op, o, o.y_bar_dot, o.x[0], o.add_w[0]);
    bias_gradient(team, op, o, o.y_bar_dot);
    team.sync();
    if (o.w_dot[0]) input_gradient(team, op, o, o.y_bar, o.w_dot[0], true);
    if (o.x_dot[0]) weight_gradient(team, op, o, o.y_bar, o.x_dot[0], true);
    team.sync();
  }

 private:
  // y = init + x w^T
  template <class Team, class Real>
  static void product(Team& team, const Op& op, const Operands<Real>& o, const Real* x,
                      const Real* w, In<Real> init, Real* y) {
    team.gemm(op.rows * o.samples, op.out, op.in, Real(1), In<Real>{x, op.in, 1},
              In<Real>{w, 1, op.in}, init, View<Real>{y, op.out, 1});
  }

  template <class Team, class Real>
  static void input_gradient(Team& team, const Op& op, const Operands<Real>& o, const Real* y_bar,
                             const Real* w, bool add) {
    if (!o.x_grad[0]) return;
    team.gemm(op.rows * o.samples, op.in, op.out, Real(1), In<Real>{y_bar, op.out, 1},
              In<Real>{w, op.in, 1}, In<Real>{add ? o.x_grad[0] : nullptr, op.in, 1},
              View<Real>{o.x_grad[0], op.in, 1});
  }

  template <class Team, class Real>
  static void weight_gradient(Team& team, const Op& op, const Operands<Real>& o, const Real* y_bar,
                              const Real* x, bool add) {
    if (!o.w_grad[0]) return;
    team.gemm(op.out, op.in, op.rows * o.samples, Real(1), In<Real>{y_bar, 1, op.out},
              In<Real>{x, op.in, 1}, In<Real>{add ? o.w_grad[0] : nullptr, op.in, 1},
              View<Real>{o.w_grad[0], op.in, 1});
  }

  template <class Team, class Real>
  static void bias_gradient(Team& team, const Op& op, const Operands<Real>& o, const Real* y_bar) {
    if (!o.w_grad[1]) return;
    team.template reduce<1>(
        Along::group, op.out, op.rows * o.samples,
        [&](int64_t column, int64_t row) { return Terms<Real, 1>{{y_bar[row * op.out + column]}}; },
        [&](int64_t column, const Terms<Real, 1>& sum) {
          put(o.w_grad[1] + column, sum.value[0], o.add_w[1]);
        });
  }
};

}  // namespace fastmaml::FM_ISA
