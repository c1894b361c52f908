// A layer in the dual form (dual.h) for the query: the task's weight is made, once a pass.
//
//   W = W_0 + C^T X      y = x W^T + b
//   W_0_bar = W_bar      C_bar = X W_bar^T      the rest is that of a linear layer
//
// The query's samples are then no rows of a Gram matrix, and read no shared weight of their own:
// where they are many and the layer is narrow, that is less work. The support's passes
// differentiate the dual form all the same, so these ops have no tangents.
#pragma once

#include "dual.h"

namespace fastmaml::FM_ISA {

// W [out, in], a value of the task, from w[0] = W_0 and w[1] = C [support rows, out].
struct Fold : WithoutTangents {
  template <class Team, class Real>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    team.gemm(op.out, op.in, op.rows * o.support.samples, Real(1),
              View<const Real>{o.w[1], 1, op.out}, View<const Real>{o.support.x, op.in, 1},
              View<const Real>{o.w[0], op.in, 1}, View<Real>{o.y, op.in, 1});
    team.sync();
  }

  // What the query gives is added to what is there, so rows of C that are padding stay.
  template <class Team, class Real>
  FM_DEVICE static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    const Accumulation<Real> to_shared = o.w_grad[0], to = o.w_grad[1];
    if (to_shared.to) {
      put_each(team, op.in * op.out, to_shared, [y_bar = o.y_bar](int64_t i) { return y_bar[i]; });
    }
    if (to.to) {
      team.gemm(op.rows * o.support.samples, op.out, op.in, to.factor,
                View<const Real>{o.support.x, op.in, 1}, View<const Real>{o.y_bar, 1, op.in},
                View<const Real>{to.start, op.out, 1}, View<Real>{to.to, op.out, 1});
    }
    team.sync();
  }
};

// y = x W^T + b, with x[1] = W and w[1] = b.
struct Folded : WithoutTangents {
  template <class Team, class Real>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    Linear::forward(team, op, as_linear(o));
  }
  template <class Team, class Real>
  FM_DEVICE static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    Linear::backward(team, op, as_linear(o));
  }

 private:
  template <class Real>
  FM_DEVICE static Operands<Real> as_linear(Operands<Real> o) {
    o.w[0] = o.x[1];
    o.w_grad[0] = {o.x_grad[1], o.add_x[1] ? o.x_grad[1] : nullptr, Real(1)};
    return o;
  }
};

}  // namespace fastmaml::FM_ISA
