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

  // A matrix, or the factors of the two products of a tangent: a' b + a b'. Null: zero.
  template <class Real>
  struct Pair {
    const Real* first;
    const Real* second = nullptr;
  };

  // Of the layer of one task.
  struct Sizes {
    int64_t in, out;
    template <class Team>
    FM_HD Sizes(const Team& team, const Op& op)
        : in(op.in / team.tasks()), out(op.out / team.tasks()) {}
  };

  template <class Team, class Real>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    product<Team, Real>(team, op, o, {o.x[0]}, {o.w[0]}, o.w[1], o.y);
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    input_gradient<Team, Real>(team, op, o, {o.y_bar}, {o.w[0]});
    weight_gradient<Team, Real>(team, op, o, {o.y_bar}, {o.x[0]});
    bias_gradient(team, op, o, o.y_bar);
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void forward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    if (o.x_dot[0] || o.w_dot[0]) {
      product<Team, Real>(team, op, o, {o.x_dot[0], o.x[0]}, {o.w[0], o.w_dot[0]}, o.w_dot[1],
                          o.y_dot);
    } else {
      // Only the bias has a tangent, or nothing has.
      Real* y_dot = o.y_dot;
      const Real* bias = o.w_dot[1];
      const int64_t out = op.out;
      team.map(Along::element, op.rows * o.samples, out,
               [=](int64_t row, int64_t i) { y_dot[row * out + i] = bias ? bias[i] : Real(0); });
    }
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void backward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    input_gradient<Team, Real>(team, op, o, {o.y_bar_dot, o.y_bar}, {o.w[0], o.w_dot[0]});
    weight_gradient<Team, Real>(team, op, o, {o.y_bar_dot, o.y_bar}, {o.x[0], o.x_dot[0]});
    bias_gradient(team, op, o, o.y_bar_dot);
    team.sync();
  }

  // b_grad = sum y_bar
  template <class Team, class Real>
  FM_DEVICE static void bias_gradient(Team& team, const Op& op, const Operands<Real>& o,
                                      const Real* y_bar) {
    const Accumulation<Real> to = o.w_grad[1];
    if (!to.to) return;
    const auto reduce = [&](auto sink) {
      team.template reduce<1>(
          Along::group, op.out, op.rows * o.samples,
          [y_bar, out = op.out](int64_t column, int64_t row) {
            return Terms<Real, 1>{{y_bar[row * out + column]}};
          },
          sink);
    };
    // Asked for once, as in put_each.
    if (to.start) {
      reduce([to](int64_t column, const Terms<Real, 1>& sum) {
        to.to[column] = to.start[column] + to.factor * sum.value[0];
      });
    } else {
      reduce([to](int64_t column, const Terms<Real, 1>& sum) {
        to.to[column] = to.factor * sum.value[0];
      });
    }
  }

 private:
  // c = init + alpha a b, or of two products those whose factors are there; one of them is.
  template <class Team, class Real>
  FM_DEVICE static void sum_of_products(Team& team, int64_t m, int64_t n, int64_t k, Real alpha,
                                        Pair<Real> a, In<Real> a_at, Pair<Real> b, In<Real> b_at,
                                        In<Real> init, View<Real> c) {
    const bool has_first = a.first && b.first, has_second = a.second && b.second;
    a_at.data = has_first ? a.first : a.second;
    b_at.data = has_first ? b.first : b.second;
    const bool both = has_first && has_second;
    team.gemm(m, n, k, alpha, a_at, b_at, init, c, both ? a.second : nullptr,
              both ? b.second : nullptr);
  }

  // y = bias + x w^T
  template <class Team, class Real>
  FM_DEVICE static void product(Team& team, const Op& op, const Operands<Real>& o, Pair<Real> x,
                                Pair<Real> w, const Real* bias, Real* y) {
    const Sizes size(team, op);
    sum_of_products<Team, Real>(team, op.rows * o.samples, size.out, size.in, Real(1), x,
                                {nullptr, size.in, 1}, w, {nullptr, 1, size.in}, {bias, 0, 1},
                                {y, size.out, 1});
  }

  // x_grad = y_bar w
  template <class Team, class Real>
  FM_DEVICE static void input_gradient(Team& team, const Op& op, const Operands<Real>& o,
                                       Pair<Real> y_bar, Pair<Real> w) {
    Real* to = o.x_grad[0];
    if (!to) return;
    const Sizes size(team, op);
    sum_of_products<Team, Real>(team, op.rows * o.samples, size.in, size.out, Real(1), y_bar,
                                {nullptr, size.out, 1}, w, {nullptr, size.in, 1},
                                {o.add_x[0] ? to : nullptr, size.in, 1}, {to, size.in, 1});
  }

  // w_grad = y_bar^T x
  template <class Team, class Real>
  FM_DEVICE static void weight_gradient(Team& team, const Op& op, const Operands<Real>& o,
                                        Pair<Real> y_bar, Pair<Real> x) {
    const Accumulation<Real> to = o.w_grad[0];
    if (!to.to) return;
    const Sizes size(team, op);
    sum_of_products<Team, Real>(team, size.out, size.in, op.rows * o.samples, to.factor, y_bar,
                                {nullptr, 1, size.out}, x, {nullptr, size.in, 1},
                                {to.start, size.in, 1}, {to.to, size.in, 1});
  }
};

}  // namespace fastmaml::FM_ISA
