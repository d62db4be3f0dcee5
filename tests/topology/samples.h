// Descriptions that several tests read, and what becomes of them by accident.
#pragma once

#include <cstdint>
#include <random>
#include <string>

namespace tutti {

// Two sockets; GPUs 0 and 1 with a NIC of two ports on a switch, GPU 2 alone, NVLink 0-1 twofold
// and to a GPU that is not there; a NIC without PCI.
inline constexpr const char* k_nccl_sample = R"(<system version="1">
  <cpu numaid="0" affinity="0000ffff,0000ffff" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="85">
    <pci busid="0000:07:00.0" class="0x060400" vendor="0x10b5" device="0x8764" link_speed="8.0 GT/s PCIe" link_width="16">
      <pci busid="0000:0A:00.0" class="0x030200" link_speed="8.0 GT/s PCIe" link_width="16">
        <gpu dev="0" sm="70" rank="1" gdr="1">
          <nvlink target="0000:0b:00.0" count="2" tclass="0x030200"/>
          <nvlink target="0000:99:00.0" count="1" tclass="0x030200"/>
        </gpu>
      </pci>
      <pci busid="0000:0b:00.0" class="0x030200" link_speed="8.0 GT/s PCIe" link_width="16">
        <gpu dev="1" sm="70" rank="0" gdr="1">
          <nvlink target="0000:0a:00.0" count="2" tclass="0x030200"/>
        </gpu>
      </pci>
      <pci busid="0000:05:00.0" class="0x020700" link_speed="8.0 GT/s PCIe" link_width="8">
        <nic>
          <net name="mlx5_0" dev="0" speed="100000" port="1" latency="1.5" guid="0x1" maxconn="131072" gdr="1"/>
          <net name="mlx5_1" dev="1" speed="100000" port="2" latency="0" guid="0x2" gdr="1"/>
        </nic>
      </pci>
    </pci>
  </cpu>
  <cpu numaid="1" affinity="ffff0000,ffff0000" arch="x86_64" vendor="GenuineIntel" familyid="6" modelid="85">
    <pci busid="0000:85:00.0" class="0x030200" link_speed="" link_width="0">
      <gpu dev="2" sm="70" rank="2" gdr="0"/>
    </pci>
    <nic>
      <net name="eth0" dev="2" speed="10000" port="0" guid="0x0" maxconn="65536" gdr="0"/>
    </nic>
  </cpu>
</system>
)";

// One to three changes of the text: a character, a cut, a repetition, a mark of XML, the end.
inline std::string mutant(std::string text, std::mt19937& random) {
  for (uint32_t change = random() % 3 + 1; change > 0 && !text.empty(); --change) {
    const size_t at = random() % text.size();
    switch (random() % 5) {
      case 0:
        text[at] = static_cast<char>(random() % 256);
        break;
      case 1:
        text.erase(at, random() % 40 + 1);
        break;
      case 2:
        text.insert(at, text.substr(random() % text.size(), random() % 80));
        break;
      case 3:
        text.insert(at, 1, "<>/\"'&= 0-9x"[random() % 12]);
        break;
      default:
        text.resize(at + 1);
    }
  }
  return text;
}

}  // namespace tutti
