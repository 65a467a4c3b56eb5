// Ports of Verilated models as arrays of 32-bit words, whatever type Verilator has chosen for their width.
// Verilator spells the double underscore of a port name `___05F`.
#pragma once
#include <cstdint>
#include <type_traits>

template <class Port> static void put(Port& port, const uint32_t* words, int count) {
    if constexpr (std::is_integral_v<Port>) {
        uint64_t value = words[0];
        if (count > 1) value |= uint64_t(words[1]) << 32;
        port = Port(value);
    } else {
        for (int k = 0; k < count; ++k) port[k] = words[k];
    }
}

template <class Port> static void get(const Port& port, uint32_t* words, int count) {
    if constexpr (std::is_integral_v<Port>) {
        words[0] = uint32_t(uint64_t(port));
        if (count > 1) words[1] = uint32_t(uint64_t(port) >> 32);
    } else {
        for (int k = 0; k < count; ++k) words[k] = port[k];
    }
}

static inline uint32_t field(const uint32_t* words, int offset, int width) {
    uint32_t value = 0;
    for (int k = 0; k < width; ++k) value |= (words[(offset + k) / 32] >> ((offset + k) % 32) & 1u) << k;
    return value;
}

static inline void set_field(uint32_t* words, int offset, int width, uint32_t value) {
    for (int k = 0; k < width; ++k) words[(offset + k) / 32] |= (value >> k & 1u) << ((offset + k) % 32);
}
