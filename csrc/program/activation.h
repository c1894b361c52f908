// Elementwise functions y = f(x). With f' and f'' the four functions are the same for all:
//
//   forward       y     = f(x)                    backward      x_bar  = f'(x) y_bar
//   forward_jvp   y'    = f'(x) x'                backward_jvp  x_bar' = f'(x) y_bar' + f''(x) x'
//   y_bar
//
// Each function below gives f(x), and f' and f'' from x and y = f(x). One whose f' takes as long as
// f, and whose f'' needs no x, leaves f'(x) where x was, if nobody else needs x (analysis.cpp).
#pragma once

#include "frame.h"
#include "scalar_math.h"

namespace fastmaml::FM_ISA {

template <class Function>
struct Activation {
  template <class Team, class Real>
  FM_DEVICE static void forward(Team& team, const Op& op, const Operands<Real>& o) {
    const Function f(op);
    const int64_t count = op.rows * op.in * o.samples;
    const Real* x = o.x[0];
    Real *y = o.y, *kept = o.first;
    if (Function::keeps_first && kept) {
      team.each(count, [=](int64_t i) {
        const Real from = x[i];
        y[i] = f.value(from);
        kept[i] = f.first(from, y[i]);
      });
    } else {
      team.write(count, y, [=](int64_t i) { return f.value(x[i]); });
    }
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void backward(Team& team, const Op& op, const Operands<Real>& o) {
    through_derivative(team, op, o, o.y_bar, o.x_grad[0], o.add_x[0]);
  }

  template <class Team, class Real>
  FM_DEVICE static void forward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    if (o.x_dot[0]) {
      through_derivative(team, op, o, o.x_dot[0], o.y_dot, false);
      return;
    }
    Real* y_dot = o.y_dot;
    team.write(op.rows * op.in * o.samples, y_dot, [](int64_t) { return Real(0); });
    team.sync();
  }

  template <class Team, class Real>
  FM_DEVICE static void backward_jvp(Team& team, const Op& op, const Operands<Real>& o) {
    if constexpr (Function::has_second) {
      if (o.x_dot[0] && o.x_grad[0]) return through_both_derivatives(team, op, o);
    }
    through_derivative(team, op, o, o.y_bar_dot, o.x_grad[0], o.add_x[0]);
  }

 private:
  // x_grad = f'(x) y_bar' + f''(x) x' y_bar
  template <class Team, class Real>
  FM_DEVICE static void through_both_derivatives(Team& team, const Op& op,
                                                 const Operands<Real>& o) {
    const Function f(op);
    const Real *x = o.x[0], *y = o.y, *x_dot = o.x_dot[0], *y_bar = o.y_bar;
    const Real* y_bar_dot = o.y_bar_dot;
    with_first(f, o, [&](auto first) {
      put_each(team, op.rows * op.in * o.samples, o.x_grad[0], o.add_x[0], [=](int64_t i) {
        return first(i) * y_bar_dot[i] + f.second(x[i], y[i]) * x_dot[i] * y_bar[i];
      });
    });
    team.sync();
  }

  // to = f'(x) from
  template <class Team, class Real>
  FM_DEVICE static void through_derivative(Team& team, const Op& op, const Operands<Real>& o,
                                           const Real* from, Real* to, bool add) {
    if (!to) return;
    with_first(Function(op), o, [&](auto first) {
      put_each(team, op.rows * op.in * o.samples, to, add,
               [=](int64_t i) { return first(i) * from[i]; });
    });
    team.sync();
  }

  // Calls visit with f' of the element of an index.
  template <class Real, class Visit>
  FM_HD static void with_first(const Function& f, const Operands<Real>& o, Visit visit) {
    const Real *x = o.x[0], *y = o.y, *kept = o.first;
    if constexpr (Function::keeps_first) {
      if (kept) return visit([=](int64_t i) { return kept[i]; });
    }
    visit([=](int64_t i) { return f.first(x[i], y[i]); });
  }
};

// Whether f'(x) may stay where x was, and whether f'' is anything but zero.
struct Smooth {
  static constexpr bool keeps_first = false, has_second = true;
};
struct PiecewiseLinear {
  static constexpr bool keeps_first = false, has_second = false;
};

struct Relu : PiecewiseLinear {
  FM_HD explicit Relu(const Op&) {}
  // The comparisons let NaN through, as PyTorch's do.
  template <class Real>
  FM_HD Real value(Real x) const {
    return x < 0 ? Real(0) : x;
  }
  template <class Real>
  FM_HD Real first(Real x, Real) const {
    return x <= 0 ? Real(0) : Real(1);
  }
};

struct LeakyRelu : PiecewiseLinear {
  double slope;
  FM_HD explicit LeakyRelu(const Op& op) : slope(op.attribute[0]) {}
  template <class Real>
  FM_HD Real value(Real x) const {
    return x > 0 ? x : Real(slope) * x;
  }
  template <class Real>
  FM_HD Real first(Real x, Real) const {
    return x > 0 ? Real(1) : Real(slope);
  }
};

struct Elu : Smooth {
  double alpha;
  FM_HD explicit Elu(const Op& op) : alpha(op.attribute[0]) {}
  template <class Real>
  FM_HD Real value(Real x) const {
    return x > 0 ? x : Real(alpha) * scalar::expm1(x);
  }
  // y + alpha has no digits left where x is far below zero.
  template <class Real>
  FM_HD Real first(Real x, Real) const {
    return x > 0 ? Real(1) : Real(alpha) * scalar::exp(x);
  }
  template <class Real>
  FM_HD Real second(Real x, Real) const {
    return x > 0 ? Real(0) : Real(alpha) * scalar::exp(x);
  }
};

struct Tanh : Smooth {
  FM_HD explicit Tanh(const Op&) {}
  template <class Real>
  FM_HD Real value(Real x) const {
    return scalar::tanh(x);
  }
  template <class Real>
  FM_HD Real first(Real, Real y) const {
    return 1 - y * y;
  }
  template <class Real>
  FM_HD Real second(Real, Real y) const {
    return -2 * y * (1 - y * y);
  }
};

struct Sigmoid : Smooth {
  FM_HD explicit Sigmoid(const Op&) {}
  template <class Real>
  FM_HD Real value(Real x) const {
    return scalar::sigmoid(x);
  }
  template <class Real>
  FM_HD Real first(Real, Real y) const {
    return y * (1 - y);
  }
  template <class Real>
  FM_HD Real second(Real, Real y) const {
    return y * (1 - y) * (1 - 2 * y);
  }
};

// x Phi(x), Phi the normal distribution (Hendrycks and Gimpel 2016).
struct Gelu : Smooth {
  FM_HD explicit Gelu(const Op&) {}
  template <class Real>
  FM_HD Real value(Real x) const {
    return x * cumulative(x);
  }
  template <class Real>
  FM_HD Real first(Real x, Real) const {
    return cumulative(x) + x * density(x);
  }
  template <class Real>
  FM_HD Real second(Real x, Real) const {
    return (2 - x * x) * density(x);
  }

 private:
  template <class Real>
  FM_HD static Real cumulative(Real x) {
    return Real(0.5) * (1 + scalar::erf(x * Real(0.70710678118654752440)));
  }
  template <class Real>
  FM_HD static Real density(Real x) {
    return Real(0.39894228040143267794) * scalar::exp(Real(-0.5) * x * x);
  }
};

// x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3)
struct GeluTanh : Smooth {
  FM_HD explicit GeluTanh(const Op&) {}
  static constexpr double scale = 0.79788456080286535588, cubic = 0.044715;
  template <class Real>
  FM_HD Real value(Real x) const {
    return Real(0.5) * x * (1 + tanh_u(x));
  }
  template <class Real>
  FM_HD Real first(Real x, Real) const {
    const Real t = tanh_u(x);
    return Real(0.5) * (1 + t) + Real(0.5) * x * (1 - t * t) * u_first(x);
  }
  template <class Real>
  FM_HD Real second(Real x, Real) const {
    const Real t = tanh_u(x), u1 = u_first(x), u2 = Real(scale) * 6 * Real(cubic) * x;
    return (1 - t * t) * (u1 + Real(0.5) * x * (u2 - 2 * t * u1 * u1));
  }

 private:
  template <class Real>
  FM_HD static Real tanh_u(Real x) {
    return scalar::tanh(Real(scale) * (x + Real(cubic) * x * x * x));
  }
  template <class Real>
  FM_HD static Real u_first(Real x) {
    return Real(scale) * (1 + 3 * Real(cubic) * x * x);
  }
};

// x sigmoid(x)
struct Silu : Smooth {
  FM_HD explicit Silu(const Op&) {}
  template <class Real>
  FM_HD Real value(Real x) const {
    return x * scalar::sigmoid(x);
  }
  template <class Real>
  FM_HD Real first(Real x, Real) const {
    const Real s = scalar::sigmoid(x);
    return s * (1 + x * (1 - s));
  }
  template <class Real>
  FM_HD Real second(Real x, Real) const {
    const Real s = scalar::sigmoid(x);
    return s * (1 - s) * (2 + x * (1 - 2 * s));
  }
};

// log(1 + exp(beta x)) / beta, and x itself where beta x > threshold, as PyTorch has it.
struct Softplus : Smooth {
  double beta, threshold;
  FM_HD explicit Softplus(const Op& op) : beta(op.attribute[0]), threshold(op.attribute[1]) {}
  template <class Real>
  FM_HD Real value(Real x) const {
    const Real z = Real(beta) * x;
    return z > Real(threshold) ? x : scalar::log1p(scalar::exp(z)) / Real(beta);
  }
  template <class Real>
  FM_HD Real first(Real x, Real) const {
    const Real z = Real(beta) * x;
    return z > Real(threshold) ? Real(1) : scalar::sigmoid(z);
  }
  template <class Real>
  FM_HD Real second(Real x, Real) const {
    const Real z = Real(beta) * x, s = scalar::sigmoid(z);
    return z > Real(threshold) ? Real(0) : Real(beta) * s * (1 - s);
  }
};

// sin(frequency x) (SIREN, Sitzmann et al. 2020, equation 5)
struct Sin {
  static constexpr bool keeps_first = true, has_second = true;
  double frequency;
  FM_HD explicit Sin(const Op& op) : frequency(op.attribute[0]) {}
  template <class Real>
  FM_HD Real value(Real x) const {
    return scalar::sin(Real(frequency) * x);
  }
  template <class Real>
  FM_HD Real first(Real x, Real) const {
    return Real(frequency) * scalar::cos(Real(frequency) * x);
  }
  template <class Real>
  FM_HD Real second(Real, Real y) const {
    return -Real(frequency) * Real(frequency) * y;
  }
};

}  // namespace fastmaml::FM_ISA
