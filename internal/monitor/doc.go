// Package monitor is the small process beside each pod, and the client that
// the engine talks to it with.
//
// One monitor serves one pod at a time. It creates the pod's processes (through
// internal/runtime), holds their standard streams, writes their logs, serves
// attached clients and records exits. It outlives the engine: hulld can be
// killed and started again without a container noticing. When the monitor
// itself dies the kernel kills its containers.
//
// A monitor's life:
//
//	                   +------------ as clean as it came ---------+
//	                   v                                          |
//	hulld: Spawn --> ready --pod--> serving --retire, destroy--> lingering --> exit
//	                   |              |  ^                       (clients have yet to
//	                   |              |  |                        take their output)
//	        socket closed: exit       hulld dies: goes on,
//	                                  a new one connects, which only destroys
//
// A process's life in it:
//
//	           add, exec            start                  exit seen
//	(none) ------------> created ----------> running ---------------> drained
//	                        |   start failed, destroy                   |
//	                        +------------------------------> drained ---+--> exit file (main
//	                                                                         processes), exited
//	                                                                         to every hulld
//
// Memory is the budget (a machine may run a thousand of these): no net, no
// encoding by reflection, nothing buffered while nothing flows.
package monitor
