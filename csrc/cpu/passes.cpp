#include "passes.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels.h"

namespace fastmaml {
namespace {

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace

template <class Real>
void run_passes(const ProgramOwner& owner, const PassesArgument& a) {
  const Program program = owner.view();
  const int64_t frame = program.support.active.of(a.samples);
  std::vector<Real> frames(4 * frame, std::numeric_limits<Real>::quiet_NaN());
  Real* values = frames.data();
  const Value& output = program.values[program.output];
  if (output.place == Place::input) {  // no op at all: the output is the input
    const auto copy = [&](Address from, Address to) {
      std::copy_n(pointer<const Real>(from), output.sample_size * a.samples, pointer<Real>(to));
    };
    copy(a.x, a.y), copy(a.x_dot, a.y_dot), copy(a.y_bar, a.x_bar);
    return copy(a.y_bar_dot, a.x_bar_dot);
  }
  const int64_t begin = output.sample_offset * a.samples + output.task_offset;
  const int64_t count = output.sample_size * a.samples;
  const std::vector<uint8_t> wanted = owner.wanted(true, std::vector<bool>(owner.slot_count()));
  const PassesCall<Real> call{program,
                              a.samples,
                              a.seed,
                              a.task,
                              a.pass,
                              pointer<const Real>(a.x),
                              pointer<const Real>(a.x_dot),
                              pointer<const Real>(a.w),
                              pointer<const Real>(a.w_dot),
                              values,
                              values + frame,
                              values + 2 * frame,
                              values + 3 * frame,
                              pointer<Real>(a.x_bar),
                              pointer<Real>(a.x_bar_dot),
                              pointer<Real>(a.w_bar),
                              pointer<Real>(a.w_bar_dot),
                              wanted.data()};
  std::copy_n(pointer<const Real>(a.y_bar), count, call.bars + begin);
  std::copy_n(pointer<const Real>(a.y_bar_dot), count, call.bar_dots + begin);
  kernels<Real>().passes(call);
  std::copy_n(call.values + begin, count, pointer<Real>(a.y));
  std::copy_n(call.dots + begin, count, pointer<Real>(a.y_dot));
}

template <class Real>
void run_loss_passes(const LossPassesArgument& a) {
  kernels<Real>().loss_passes({loss_kind(a.kind), a.label_smoothing, a.samples, a.features,
                               pointer<const Real>(a.prediction), pointer<const int64_t>(a.labels),
                               pointer<const Real>(a.target), pointer<const Real>(a.weights),
                               pointer<const Real>(a.prediction_dot), pointer<Real>(a.sample_loss),
                               pointer<Real>(a.prediction_bar), pointer<Real>(a.target_bar),
                               pointer<Real>(a.sample_loss_dot),
                               pointer<Real>(a.prediction_bar_dot),
                               pointer<Real>(a.target_bar_dot)});
}

template void run_passes<float>(const ProgramOwner&, const PassesArgument&);
template void run_passes<double>(const ProgramOwner&, const PassesArgument&);
template void run_loss_passes<float>(const LossPassesArgument&);
template void run_loss_passes<double>(const LossPassesArgument&);

}  // namespace fastmaml
