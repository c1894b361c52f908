// y = x mask / (1 - p). The mask is a hash of where it is drawn (seed, task, stream, pass,
// element), so that a pass that is run again, or its tangent, finds the same one.
#pragma once

#include "frame.h"

namespace fastmaml::FM_ISA {

// An integer hash of 32 bits in which every input bit reaches every output bit.
FM_HD uint32_t mix(uint32_t h) {
  h ^= h >> 16;
  h *= 0x7feb352dU;
  h ^= h >> 15;
  h *= 0x846ca68bU;
  h ^= h >> 16;
  return h;
}

struct Dropout {
  template <class Team, class Real>
  static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    apply_mask(team, op, o, o.x[0], o.y, false);
  }

  template <class Team, class Real>
  static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    apply_mask(team, op, o, o.y_bar, o.x_grad[0], o.add_x[0]);
  }

  template <class Team, class Real>
  static void forward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    apply_mask(team, op, o, o.x_dot[0], o.y_dot, false);
  }

  template <class Team, class Real>
  static void backward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    apply_mask(team, op, o, o.y_bar_dot, o.x_grad[0], o.add_x[0]);
  }

 private:
  template <class Team, class Real>
  static void apply_mask(Team& team, const Op& op, const Operands<Real>& o, const Real* from,
                         Real* to, bool add) {
    if (!to) return;
    const double p = op.attribute[0];
    const uint32_t stream = static_cast<uint32_t>(op.attribute[1]);
    const uint32_t key = mix(mix(mix(mix(o.draw.seed) ^ o.draw.task) ^ stream) ^ o.draw.pass);
    const uint64_t threshold = static_cast<uint64_t>(p * 4294967296.0);
    const Real scale = p < 1 ? Real(1 / (1 - p)) : Real(0);
    team.each(op.rows * op.in * o.samples, [=](int64_t i) {
      const uint32_t u = mix(mix(static_cast<uint32_t>(i) ^ key) + key);
      const Real factor = u >= threshold ? scale : Real(0);
      put(to + i, from ? factor * from[i] : Real(0), add);
    });
    team.sync();
  }
};

}  // namespace fastmaml::FM_ISA
