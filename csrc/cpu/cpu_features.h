// What the processor offers: which instruction set the kernels use on it, and how many cores.
#pragma once

#include <vector>

// Calls X(name) for every instruction set that kernels are compiled for, slowest first. The names
// are those of the namespaces fastmaml::FM_ISA.
#if defined(__x86_64__)
#define FM_FOR_EACH_ISA(X) X(portable) X(avx2) X(avx512)
#elif defined(__aarch64__)
#define FM_FOR_EACH_ISA(X) X(portable) X(neon)
#else
#define FM_FOR_EACH_ISA(X) X(portable)
#endif

namespace fastmaml {

#define FM_ENUMERATOR(name) name,
enum class Isa { FM_FOR_EACH_ISA(FM_ENUMERATOR) };
#undef FM_ENUMERATOR

const char* isa_name(Isa isa);

// What this processor and its operating system can run, slowest first.
const std::vector<Isa>& supported_isas();

// The fastest of these, or the one that the environment variable FASTMAML_ISA names. Read once.
// Throws std::runtime_error if the variable names none of supported_isas().
Isa selected_isa();

// The cores that there are, one at least. Asked once: the answer is a file of the system's.
int machine_cores();

}  // namespace fastmaml
