// NCCL's topology XML (NCCL_TOPO_FILE, NCCL_TOPO_DUMP_FILE) and RCCL's: to and from parts lists.
//
//   <system version="1">
//     <cpu numaid="0" affinity="0000ffff" arch="x86_64" vendor="GenuineIntel" familyid="6"
//     modelid="85">
//       <pci busid="0000:07:00.0" class="0x060400" link_speed="8.0 GT/s PCIe" link_width="16">
//         <pci busid="0000:0a:00.0" class="0x030200" link_speed="8.0 GT/s PCIe" link_width="16">
//           <gpu dev="0" sm="70" rank="0" gdr="1">
//             <nvlink target="0000:0b:00.0" count="2" tclass="0x030200"/>
//           </gpu>
//         </pci>
//         <pci busid="0000:05:00.0" class="0x020700" ...>
//           <nic><net name="mlx5_0" dev="0" speed="100000" port="1" latency="0" guid="0x1"
//           gdr="1"/></nic>
//         </pci>
//       </pci>
//     </cpu>
//   </system>
//
// Also read: gpus without a <gpu> element (by PCI class, as clouds ship them), <xgmi>, <c2c bw
// count>, NVSwitches as targets of class 0x0680, host_hash (a file of several hosts), <nic> without
// <pci>, `latency` of a <net> in microseconds. Elements and attributes that mean nothing here are
// skipped.
//
// Some attributes are tutti's own, which NCCL skips: of <system>, tutti_hosts="18" stands for so
// many equal hosts, tutti_name is what they are called, tutti_switches="core.rack3" which switches
// are above them, outermost first, tutti_inside a spec of what is inside (spec.h) instead of the
// parts (these also of a <cpu>, where they are its host's alone), and
// tutti_nvswitch="shared" says that one NVSwitch fabric joins them all; of <cpu>,
// tutti_package names the socket that contains this and other NUMA nodes. <link from="0" to="1"
// speed="166400"/> in <system> gives the link between two NUMA nodes (Mb/s each way; of all hosts,
// or of the one that its host_hash names), which NCCL assumes; `speed` of an <nvlink> or <xgmi>
// (Mb/s each way of one link) its rate where the GPU's generation does not say.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "topology/machine.h"
#include "topology/xml.h"

namespace tutti {

// One Machine for each host in the text. Errors: invalid_argument "line L, column C: expected ...,
// found ...": malformed XML, a root other than <system>, a version other than 1 or 2, values that
// are no numbers or make no sense, a bus id or a GPU twice.
Result<std::vector<Machine>> parse_nccl_xml(std::string_view text);
// The same for a document that was read already.
Result<std::vector<Machine>> read_nccl_xml(const XmlElement& system);

// What parse_nccl_xml() reads back to the same parts, links and figures. Cores are left out.
std::string to_nccl_xml(const std::vector<Machine>& hosts);

}  // namespace tutti
