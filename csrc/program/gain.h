// y = d (.) x, elementwise, where d depends on neither x nor any parameter: all four functions
// multiply by d.
#pragma once

#include "frame.h"

namespace fastmaml::FM_ISA {

// `Factor` gives element i of d, from what an op and its operands say.
template <template <class> class Factor>
struct Gain {
  template <class Team, class Real>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    multiply(team, op, o, o.x[0], o.y, false);
  }

  template <class Team, class Real>
  FM_DEVICE static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    multiply(team, op, o, o.y_bar, o.x_grad[0], o.add_x[0]);
  }

  template <class Team, class Real>
  FM_DEVICE static void forward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    multiply(team, op, o, o.x_dot[0], o.y_dot, false);
  }

  template <class Team, class Real>
  FM_DEVICE static void backward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    multiply(team, op, o, o.y_bar_dot, o.x_grad[0], o.add_x[0]);
  }

 private:
  template <class Team, class Real>
  FM_DEVICE static void multiply(Team& team, const Op& op, const Operands<Real>& o,
                                 const Real* from, Real* to, bool add) {
    if (!to) return;
    const Factor<Real> factor(op, o);
    put_each(team, op.rows * op.in * o.samples, to, add,
             [=](int64_t i) { return from ? factor(i) * from[i] : Real(0); });
    team.sync();
  }
};

// One number for all elements.
template <class Real>
struct ScaleFactor {
  Real factor;
  FM_HD ScaleFactor(const Op& op, const Operands<Real>&) : factor(Real(op.attribute[0])) {}
  FM_HD Real operator()(int64_t) const { return factor; }
};

// An integer hash of 32 bits in which every input bit reaches every output bit.
FM_HD uint32_t mix(uint32_t h) {
  h ^= h >> 16;
  h *= 0x7feb352dU;
  h ^= h >> 15;
  h *= 0x846ca68bU;
  h ^= h >> 16;
  return h;
}

// Dropout: 1 / (1 - p) where an element is kept, else 0. What is kept is a hash of where it is
// drawn (seed, task, stream, pass, element), so that a pass that is run again, or its tangent,
// finds the same.
template <class Real>
struct DropoutFactor {
  uint32_t key;
  uint64_t threshold;
  Real scale;

  FM_HD DropoutFactor(const Op& op, const Operands<Real>& o) {
    const double p = op.attribute[0];
    const uint32_t stream = static_cast<uint32_t>(op.attribute[1]);
    key = mix(mix(mix(mix(o.draw.seed) ^ o.draw.task) ^ stream) ^ o.draw.pass);
    threshold = static_cast<uint64_t>(p * 4294967296.0);
    scale = p < 1 ? Real(1 / (1 - p)) : Real(0);
  }
  FM_HD Real operator()(int64_t element) const {
    const uint32_t u = mix(mix(static_cast<uint32_t>(element) ^ key) + key);
    return u >= threshold ? scale : Real(0);
  }
};

}  // namespace fastmaml::FM_ISA
