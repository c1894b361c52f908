#include "cpu_features.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

namespace fastmaml {
namespace {

bool is_supported(Isa isa) {
#if defined(__x86_64__)
  // These also ask whether the operating system saves the registers.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }
#else
  (void)isa;  // NEON is part of every AArch64
#endif
  return true;
}

std::vector<Isa> find_supported() {
  std::vector<Isa> supported;
#define FM_ADD_IF_SUPPORTED(name) \
  if (is_supported(Isa::name)) supported.push_back(Isa::name);
  FM_FOR_EACH_ISA(FM_ADD_IF_SUPPORTED)
#undef FM_ADD_IF_SUPPORTED
  return supported;
}

Isa find_selected() {
  const char* wanted = std::getenv("FASTMAML_ISA");
  if (!wanted || !*wanted) return supported_isas().back();
  std::string names;
  for (const Isa isa : supported_isas()) {
    if (isa_name(isa) == std::string(wanted)) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::runtime_error("FASTMAML_ISA is '" + std::string(wanted) +
                           "', but this processor and this build have only: " + names);
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
#define FM_CASE(name) \
  case Isa::name:     \
    return #name;
    FM_FOR_EACH_ISA(FM_CASE)
#undef FM_CASE
  }
  return "unknown";
}

const std::vector<Isa>& supported_isas() {
  static const std::vector<Isa> supported = find_supported();
  return supported;
}

Isa selected_isa() {
  static const Isa selected = find_selected();
  return selected;
}

int machine_cores() {
  static const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return cores;
}

}  // namespace fastmaml
