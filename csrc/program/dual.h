// A linear layer on the samples themselves in the dual form: a task's own weight is never made.
//
// SGD moves the weight of y = x w^T + b by sums of outer products with the support samples X, so
//
//   w_k = w_0 + C_k^T X        y = z + k C_k + b        z = x w_0^T,   k = x X^T
//
// with C [support rows, out] zero at first. z and k do not change from step to step: Linear and
// Gram compute them once a task. C takes the place of w as what is adapted. The gradient of the
// support loss by w is y_bar^T X, so in an inner step C moves by y_bar itself; it is y_bar that
// the adjoint recursion differentiates, along a tangent of y.
#pragma once

#include "linear.h"

namespace fastmaml::FM_ISA {

// Functions of an op that no tangent reaches: one of fixed values, or of the query's passes alone.
struct WithoutTangents {
  template <class Team, class Real>
  FM_DEVICE static void forward_jvp(Team&, const Op&, const Operands<Real>&) {}
  template <class Team, class Real>
  FM_DEVICE static void backward_jvp(Team&, const Op&, const Operands<Real>&) {}
};

// k = x X^T; columns of support samples that are padding are zero.
struct Gram : WithoutTangents {
  template <class Team, class Real>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    const int64_t rows = op.rows * o.samples, columns = op.rows * o.support.samples;
    if (columns < op.out) {
      team.write(rows * op.out, o.y, [](int64_t) { return Real(0); });
      team.sync();
    }
    const View<const Real> x{o.x[0], op.in, 1}, support{o.support.x, 1, op.in}, none{nullptr, 0, 0};
    team.gemm(rows, columns, op.in, Real(1), x, support, none, View<Real>{o.y, op.out, 1});
    team.sync();
  }

  // The dual form is not taken where the samples' own gradients are wanted.
  template <class Team, class Real>
  FM_DEVICE static void backward(Team&, const Op&, const Operands<Real>&) {}
};

// y = z + k C + b, with x[0] = z [rows, out], x[1] = k [rows, in], w[0] = C [in, out], w[1] = b.
struct Dual {
  template <class Team, class Real>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    const int64_t rows = op.rows * o.samples;
    const Real *z = o.x[0], *bias = o.w[1];
    const View<const Real> init =
        bias ? View<const Real>{bias, 0, 1} : View<const Real>{z, op.out, 1};
    team.gemm(rows, op.out, op.in, Real(1), View<const Real>{o.x[1], op.in, 1},
              View<const Real>{o.w[0], op.out, 1}, init, View<Real>{o.y, op.out, 1});
    team.sync();
    if (!bias) return;
    team.write(rows * op.out, o.y, [y = o.y, z](int64_t i) { return y[i] + z[i]; });
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    to_z(team, op, o, o.y_bar);
    const Accumulation<Real> to = o.w_grad[0];
    if (to.to && o.of_support) {
      const int64_t numbers = op.rows * o.samples * op.out, padding = op.in * op.out - numbers;
      put_each(team, numbers, to, [y_bar = o.y_bar](int64_t i) { return y_bar[i]; });
      if (to.start != to.to) {  // padding does not move
        team.write(padding, to.to + numbers,
                   [=](int64_t i) { return to.start ? to.start[numbers + i] : Real(0); });
      }
    } else {
      to_coefficients(team, op, o, o.y_bar);
    }
    Linear::bias_gradient(team, op, o, o.y_bar);
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void forward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    Real* y_dot = o.y_dot;
    const int64_t out = op.out;
    const Real *along = o.w_dot[0], *bias = o.w_dot[1];
    if (bias) {
      team.map(Along::element, op.rows * o.samples, out, [=](int64_t row, int64_t i) {
        y_dot[row * out + i] = along[row * out + i] + bias[i];
      });
    } else {
      team.write(op.rows * o.samples * out, y_dot, [=](int64_t i) { return along[i]; });
    }
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void backward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    to_z(team, op, o, o.y_bar_dot);
    to_coefficients(team, op, o, o.y_bar_dot);
    Linear::bias_gradient(team, op, o, o.y_bar_dot);
    team.sync();
  }

 private:
  template <class Team, class Real>
  FM_DEVICE static void to_z(Team& team, const Op& op, const Operands<Real>& o, const Real* y_bar) {
    if (!o.x_grad[0]) return;
    put_each(team, op.rows * o.samples * op.out, o.x_grad[0], o.add_x[0],
             [=](int64_t i) { return y_bar[i]; });
  }

  // C_grad = k^T y_bar
  template <class Team, class Real>
  FM_DEVICE static void to_coefficients(Team& team, const Op& op, const Operands<Real>& o,
                                        const Real* y_bar) {
    const Accumulation<Real> to = o.w_grad[0];
    if (!to.to) return;
    team.gemm(op.in, op.out, op.rows * o.samples, to.factor, View<const Real>{o.x[1], 1, op.in},
              View<const Real>{y_bar, op.out, 1}, View<const Real>{to.start, op.out, 1},
              View<Real>{to.to, op.out, 1});
  }
};

}  // namespace fastmaml::FM_ISA
