// Package dns is the name server that a pod has at 127.0.0.11, and the files
// that tell it what to answer. hulld writes the files; the pod's monitor serves,
// so names resolve while hulld is down.
//
//	RUN/pods/<pod>/dns.conf     a pod's own: networks, links, upstream servers (Config)
//	RUN/dns/<network id>.zone   one for all pods of a network (Zone)
//
// Nothing is pushed: the server compares the files' inodes when a question comes
// and reads what has changed. So an attach costs the engine one file, however
// many pods are on the network, and a pod that asks nothing does nothing. A zone
// is a sorted text that the server maps and searches in place; its pages are
// shared by all pods of the network.
//
// What no zone knows is asked of upstream servers, each a moment after the one
// before it or as soon as that one has failed; the first good answer counts and is
// remembered for a while. Everything that a container can ask for is bounded:
// questions under way, connections, bytes of memory, time.
//
// The package does without net, as does all of the monitor: an idle name server
// is three sockets and two parked goroutines.
package dns

import "net/netip"

// Address is where a pod's programs find the server, as with Docker.
func Address() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

// Port is where the server really listens. Port 53 stays free for what runs in
// the container, which may well be a name server itself; the namespace's packet
// filter leads Address:53 here. It lies above the ephemeral ports.
const Port = 61053

// ConfigName is the name of a pod's Config in its run directory.
const ConfigName = "dns.conf"
