// Normalisation of groups of elements: of a row's features (layer_norm, rms_norm), or of a
// channel over samples and positions (batch_norm, by the statistics of the batch itself).
//
// Over one group, with <.> its mean, and <.> of a lone x replaced by 0 in rms_norm:
//
//   r = 1 / sqrt(<(x - <x>)^2> + eps)     h = r (x - <x>)           y = w h + b
//   backward        d = w y_bar           x_bar = r (d - <d> - h <d h>)
//                   w_bar = sum y_bar h   b_bar = sum y_bar
//   forward_jvp     q = <h x'>            h' = r (x' - <x'> - h q)  y' = w h' + w' h + b'
//   backward_jvp    r' = -r^2 q           d' = w y_bar' + w' y_bar
//                   x_bar' = r' (d - <d> - h <d h>) + r (d' - <d'> - h' <d h> - h <d' h + d h'>)
//                   w_bar' = sum (y_bar' h + y_bar h')              b_bar' = sum y_bar'
//
// The two means of a group in each pass stay in that pass's frame, as `statistics`: (<x>, r),
// (<x'>, q), (<d>, <d h>) and the two of backward_jvp.
#pragma once

#include "frame.h"
#include "scalar_math.h"

namespace fastmaml::FM_ISA {

// Groups are rows of `count` contiguous elements, each with a weight of its own.
struct RowGroups {
  int64_t groups, count;
  static constexpr Along along = Along::element;
  FM_HD int64_t index(int64_t g, int64_t e) const { return g * count + e; }
  FM_HD int64_t parameter(int64_t, int64_t e) const { return e; }
};

// Groups are the columns of a matrix, each with one weight.
struct ColumnGroups {
  int64_t groups, count;
  static constexpr Along along = Along::group;
  FM_HD int64_t index(int64_t g, int64_t e) const { return e * groups + g; }
  FM_HD int64_t parameter(int64_t g, int64_t) const { return g; }
};

// Groups are channels of samples [groups, positions], each with one weight.
struct ChannelGroups {
  int64_t groups, count, positions;
  static constexpr Along along = Along::element;
  FM_HD int64_t index(int64_t g, int64_t e) const {
    return (e / positions * groups + g) * positions + e % positions;
  }
  FM_HD int64_t parameter(int64_t g, int64_t) const { return g; }
};

// `centred` tells layer_norm and batch_norm from rms_norm.
template <bool centred>
struct Normalise {
  template <class Team, class Real, class Groups>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o, Groups groups) {
    const Real *x = o.x[0], *w = o.w[0], *b = o.w[1];
    Real *y = o.y, *s = o.statistics;
    const Real count = Real(groups.count), eps = Real(op.attribute[0]);
    if constexpr (centred) {
      team.template reduce<1>(
          groups.along, groups.groups, groups.count,
          [=](int64_t g, int64_t e) { return Terms<Real, 1>{{x[groups.index(g, e)]}}; },
          [=](int64_t g, const Terms<Real, 1>& sum) { s[2 * g] = sum.value[0] / count; });
    } else {
      team.each(groups.groups, [=](int64_t g) { s[2 * g] = Real(0); });
    }
    team.sync();
    team.template reduce<1>(
        groups.along, groups.groups, groups.count,
        [=](int64_t g, int64_t e) {
          const Real deviation = x[groups.index(g, e)] - s[2 * g];
          return Terms<Real, 1>{{deviation * deviation}};
        },
        [=](int64_t g, const Terms<Real, 1>& sum) {
          s[2 * g + 1] = 1 / scalar::sqrt(sum.value[0] / count + eps);
        });
    team.sync();
    team.map(groups.along, groups.groups, groups.count, [=](int64_t g, int64_t e) {
      const int64_t i = groups.index(g, e), p = groups.parameter(g, e);
      const Real h = s[2 * g + 1] * (x[i] - s[2 * g]);
      y[i] = (w ? w[p] : Real(1)) * h + (b ? b[p] : Real(0));
    });
    team.sync();
  }

  template <class Team, class Real, class Groups>
  FM_DEVICE static void backward(Team& team, const Op&, const Operands<Real>& o, Groups groups) {
    const Real *x = o.x[0], *w = o.w[0], *y_bar = o.y_bar, *s = o.statistics;
    Real *x_grad = o.x_grad[0], *means = o.statistics_bar;
    const bool add = o.add_x[0];
    const auto h = [=](int64_t g, int64_t i) { return s[2 * g + 1] * (x[i] - s[2 * g]); };
    if (x_grad) {
      group_means(team, groups, means, [=](int64_t g, int64_t e) {
        const int64_t i = groups.index(g, e);
        const Real d = (w ? w[groups.parameter(g, e)] : Real(1)) * y_bar[i];
        return Terms<Real, 2>{{d, d * h(g, i)}};
      });
      team.map(groups.along, groups.groups, groups.count, [=](int64_t g, int64_t e) {
        const int64_t i = groups.index(g, e);
        const Real d = (w ? w[groups.parameter(g, e)] : Real(1)) * y_bar[i];
        put(x_grad + i, s[2 * g + 1] * (d - means[2 * g] - h(g, i) * means[2 * g + 1]), add);
      });
    }
    parameter_gradients(team, groups, o, [=](int64_t g, int64_t i) {
      return Terms<Real, 2>{{y_bar[i] * h(g, i), y_bar[i]}};
    });
    team.sync();
  }

  template <class Team, class Real, class Groups>
  FM_DEVICE static void forward_jvp(Team& team, const Op&, const Operands<Real>& o, Groups groups) {
    const Real *x = o.x[0], *w = o.w[0], *s = o.statistics;
    const Real *x_dot = o.x_dot[0], *w_dot = o.w_dot[0], *b_dot = o.w_dot[1];
    Real *y_dot = o.y_dot, *s_dot = o.statistics_dot;
    const auto h = [=](int64_t g, int64_t i) { return s[2 * g + 1] * (x[i] - s[2 * g]); };
    if (x_dot) {
      group_means(team, groups, s_dot, [=](int64_t g, int64_t e) {
        const int64_t i = groups.index(g, e);
        return Terms<Real, 2>{{x_dot[i], h(g, i) * x_dot[i]}};
      });
    }
    team.map(groups.along, groups.groups, groups.count, [=](int64_t g, int64_t e) {
      const int64_t i = groups.index(g, e), p = groups.parameter(g, e);
      Real sum = b_dot ? b_dot[p] : Real(0);
      if (w_dot) sum += w_dot[p] * h(g, i);
      if (x_dot) {
        const Real h_dot = s[2 * g + 1] * (x_dot[i] - s_dot[2 * g] - h(g, i) * s_dot[2 * g + 1]);
        sum += (w ? w[p] : Real(1)) * h_dot;
      }
      y_dot[i] = sum;
    });
    team.sync();
  }

  template <class Team, class Real, class Groups>
  FM_DEVICE static void backward_jvp(Team& team, const Op&, const Operands<Real>& o,
                                     Groups groups) {
    const Real *x = o.x[0], *w = o.w[0], *s = o.statistics;
    const Real *x_dot = o.x_dot[0], *w_dot = o.w_dot[0], *s_dot = o.statistics_dot;
    const Real *y_bar = o.y_bar, *y_bar_dot = o.y_bar_dot, *means = o.statistics_bar;
    Real *x_grad = o.x_grad[0], *means_dot = o.statistics_bar_dot;
    const bool add = o.add_x[0];
    const auto h = [=](int64_t g, int64_t i) { return s[2 * g + 1] * (x[i] - s[2 * g]); };
    const auto h_dot = [=](int64_t g, int64_t i) {
      return x_dot ? s[2 * g + 1] * (x_dot[i] - s_dot[2 * g] - h(g, i) * s_dot[2 * g + 1])
                   : Real(0);
    };
    const auto d = [=](int64_t i, int64_t p) { return (w ? w[p] : Real(1)) * y_bar[i]; };
    const auto d_dot = [=](int64_t i, int64_t p) {
      return (w ? w[p] : Real(1)) * y_bar_dot[i] + (w_dot ? w_dot[p] * y_bar[i] : Real(0));
    };
    if (x_grad) {
      group_means(team, groups, means_dot, [=](int64_t g, int64_t e) {
        const int64_t i = groups.index(g, e), p = groups.parameter(g, e);
        return Terms<Real, 2>{{d_dot(i, p), d_dot(i, p) * h(g, i) + d(i, p) * h_dot(g, i)}};
      });
      team.map(groups.along, groups.groups, groups.count, [=](int64_t g, int64_t e) {
        const int64_t i = groups.index(g, e), p = groups.parameter(g, e);
        const Real r = s[2 * g + 1];
        Real sum = d_dot(i, p) - means_dot[2 * g] - h(g, i) * means_dot[2 * g + 1];
        if (x_dot) {
          const Real inner = d(i, p) - means[2 * g] - h(g, i) * means[2 * g + 1];
          sum -= h_dot(g, i) * means[2 * g + 1] + r * s_dot[2 * g + 1] * inner;
        }
        put(x_grad + i, r * sum, add);
      });
    }
    parameter_gradients(team, groups, o, [=](int64_t g, int64_t i) {
      return Terms<Real, 2>{{y_bar_dot[i] * h(g, i) + y_bar[i] * h_dot(g, i), y_bar_dot[i]}};
    });
    team.sync();
  }

 private:
  // means[2g] = <first term>, or 0 in rms_norm, and means[2g + 1] = <second term>.
  template <class Team, class Real, class Groups, class F>
  FM_DEVICE static void group_means(Team& team, Groups groups, Real* means, F f) {
    const Real count = Real(groups.count);
    team.template reduce<2>(groups.along, groups.groups, groups.count, f,
                            [=](int64_t g, const Terms<Real, 2>& sum) {
                              means[2 * g] = centred ? sum.value[0] / count : Real(0);
                              means[2 * g + 1] = sum.value[1] / count;
                            });
    team.sync();
  }

  // The sums of f(g, index) over the elements that share a weight: its and its bias's gradient.
  template <class Team, class Real, class Groups, class F>
  FM_DEVICE static void parameter_gradients(Team& team, Groups groups, const Operands<Real>& o,
                                            F f) {
    const Accumulation<Real> w_grad = o.w_grad[0], b_grad = o.w_grad[1];
    if (!w_grad.to && !b_grad.to) return;
    const auto sink = [=](int64_t p, const Terms<Real, 2>& sum) {
      if (w_grad.to) w_grad.put(p, sum.value[0]);
      if (b_grad.to) b_grad.put(p, sum.value[1]);
    };
    if constexpr (requires { groups.positions; } || Groups::along == Along::group) {
      team.template reduce<2>(
          groups.along, groups.groups, groups.count,
          [=](int64_t g, int64_t e) { return f(g, groups.index(g, e)); }, sink);
    } else {
      team.template reduce<2>(
          Along::group, groups.count, groups.groups,
          [=](int64_t e, int64_t g) { return f(g, groups.index(g, e)); }, sink);
    }
  }
};

// `op.rows` rows a sample of `op.in` features.
template <bool centred>
struct RowNorm {
#define FM_PASS(pass)                                                             \
  template <class Team, class Real>                                               \
  FM_DEVICE static void pass(Team& team, const Op& op, const Operands<Real>& o) { \
    Normalise<centred>::pass(team, op, o, RowGroups{op.rows * o.samples, op.in}); \
  }
  FM_PASS(forward)
  FM_PASS(backward)
  FM_PASS(forward_jvp)
  FM_PASS(backward_jvp)
#undef FM_PASS
};

// `op.in` channels of `op.rows` positions.
struct BatchNorm {
#define FM_PASS(pass)                                                                         \
  template <class Team, class Real>                                                           \
  FM_DEVICE static void pass(Team& team, const Op& op, const Operands<Real>& o) {             \
    if (op.rows == 1) {                                                                       \
      Normalise<true>::pass(team, op, o, ColumnGroups{op.in, o.samples});                     \
    } else {                                                                                  \
      Normalise<true>::pass(team, op, o, ChannelGroups{op.in, op.rows * o.samples, op.rows}); \
    }                                                                                         \
  }
  FM_PASS(forward)
  FM_PASS(backward)
  FM_PASS(forward_jvp)
  FM_PASS(backward_jvp)
#undef FM_PASS
};

}  // namespace fastmaml::FM_ISA
