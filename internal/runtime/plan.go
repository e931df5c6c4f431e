package runtime

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// Plan is a compiled specification: what Create carries out, in order. Its
// fields are this package's; others keep, send and print it.
type Plan struct {
	Rootfs      Rootfs
	Process     ProcPlan
	Unshare     uintptr     `json:",omitempty"` // CLONE_NEW* to make
	Join        []JoinPlan  `json:",omitempty"`
	UIDMap      []IDMap     `json:",omitempty"`
	GIDMap      []IDMap     `json:",omitempty"`
	Hostname    string      `json:",omitempty"`
	Domainname  string      `json:",omitempty"`
	Mounts      []MountPlan `json:",omitempty"`
	Devices     []Device    `json:",omitempty"`
	SetupDev    bool        `json:",omitempty"` // /dev is ours: nodes, links, console
	Masked      []string    `json:",omitempty"`
	Readonly    []string    `json:",omitempty"`
	Sysctls     []Sysctl    `json:",omitempty"`
	Propagation uintptr     `json:",omitempty"` // MS_* of the root, 0 = rslave
	Init        bool        `json:",omitempty"`
	NoPivot     bool        `json:",omitempty"`
	TimeOffsets string      `json:",omitempty"` // for timens_offsets
	Warnings    []string    `json:",omitempty"` // for the user
}

// ExecPlan is another process for a running container.
type ExecPlan struct {
	Process  ProcPlan
	Warnings []string `json:",omitempty"`
}

// ProcPlan is one process: what runs, as whom, with which rights.
type ProcPlan struct {
	Args       []string
	Env        []string `json:",omitempty"`
	Cwd        string
	Terminal   bool     `json:",omitempty"`
	Rows, Cols uint16   `json:",omitempty"`
	UID, GID   uint32   `json:",omitempty"`
	Groups     []uint32 `json:",omitempty"`
	Umask      int      // -1 = leave
	Caps       Caps
	Rlimits    []Rlimit   `json:",omitempty"`
	NoNewPrivs bool       `json:",omitempty"`
	OOMScore   *int       `json:",omitempty"`
	Seccomp    *Filter    `json:",omitempty"`
	Sched      *SchedAttr `json:",omitempty"`
	IOPrio     int        `json:",omitempty"` // for ioprio_set; 0 = leave
	Person     *uintptr   `json:",omitempty"` // personality(2)

	Path        string     `json:",omitempty"` // the executable, "" = Args[0]
	KeepKeyring bool       `json:",omitempty"`
	CPUs        CPUMask    `json:",omitempty"` // affinity, nil = all that the cgroup allows
	FirstCPUs   CPUMask    `json:",omitempty"` // of an exec, until it is in its cgroup
	MemPolicy   *MemPolicy `json:",omitempty"`
	AppArmor    string     `json:",omitempty"` // profile
	SELinux     string     `json:",omitempty"` // label
}

// MemPolicy is for set_mempolicy.
type MemPolicy struct {
	Mode  uintptr
	Nodes []uint64 `json:",omitempty"` // bits
}

// SchedAttr is struct sched_attr.
type SchedAttr struct {
	Policy, Nice              int32
	Flags                     uint64
	Priority                  uint32
	Runtime, Deadline, Period uint64
	Pinned                    bool `json:",omitempty"` // to some of the processors: some policies do not go with that
}

// Caps are capability sets as masks; bit n is capability n.
type Caps struct {
	Keep                                                 bool `json:",omitempty"` // leave all as they are
	Bounding, Effective, Permitted, Inheritable, Ambient uint64
}

// Rlimit is one resource limit.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
	KeepHard   bool `json:",omitempty"` // the hard limit stays what it is
}

// JoinPlan joins a namespace by path.
type JoinPlan struct {
	Kind uintptr // CLONE_NEW*
	Path string
}

// IDMap maps a range of ids.
type IDMap = linux.IDMap

// MountPlan is one mount.
type MountPlan struct {
	Kind    string // "bind", "proc", "cgroup", "tmpfs", "fs"
	Type    string `json:",omitempty"` // file system, for "fs"
	Source  string `json:",omitempty"`
	Dest    string
	Rec     bool     `json:",omitempty"` // bind what is mounted below, too
	Set     uint64   `json:",omitempty"` // MOUNT_ATTR_* on this mount
	Clear   uint64   `json:",omitempty"` // given up by name
	Remount bool     `json:",omitempty"` // a bind mount gets exactly Set, not its source's attributes
	Atime   bool     `json:",omitempty"` // ... also of the access times
	RecSet  uint64   `json:",omitempty"` // MOUNT_ATTR_* on this mount and below
	RecClr  uint64   `json:",omitempty"`
	Prop    uint64   `json:",omitempty"` // MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, 0 = leave
	PropRec bool     `json:",omitempty"`
	Data    []string `json:",omitempty"` // key=value or key
	CopyUp  bool     `json:",omitempty"`
	IDMap   string   `json:",omitempty"` // "" = as it is, "idmap", "ridmap" = with what is mounted below
	UIDMap  []IDMap  `json:",omitempty"` // of an idmapped mount; none = the container's own
	GIDMap  []IDMap  `json:",omitempty"`
}

// Device is a device node to make.
type Device struct {
	Path         string
	Mode         uint32 // type and permissions, as for mknod
	Major, Minor uint32
	UID, GID     uint32 `json:",omitempty"`
}

// Sysctl is one kernel parameter of the container's namespaces.
type Sysctl struct{ Key, Value string }

// Filter is a compiled seccomp profile.
type Filter struct {
	Program  []byte `json:",omitempty"` // struct sock_filter[], native byte order
	Flags    uint32 // SECCOMP_FILTER_FLAG_*
	Listener string `json:",omitempty"` // path of a socket that gets the notification descriptor
	Metadata string `json:",omitempty"`
}

// Namespaces are the kinds (CLONE_NEW*) of namespaces that the container does not
// share with whoever creates it.
func (p *Plan) Namespaces() uintptr {
	k := p.Unshare
	for _, j := range p.Join {
		k |= j.Kind
	}
	return k
}

// userNS says whether the container has a user namespace of its own, or joins one.
func (p *Plan) userNS() bool { return p.has(unix.CLONE_NEWUSER) }

// MarshalBinary encodes the plan for another process of the same build: the
// length of the seccomp program (u32, little endian), the program, and the rest as
// JSON. The program is most of a plan's bytes and of the time that JSON takes.
func (p *Plan) MarshalBinary() ([]byte, error) {
	rest, f := *p, Filter{}
	if p.Process.Seccomp != nil {
		f = *p.Process.Seccomp
		bare := f
		bare.Program = nil
		rest.Process.Seccomp = &bare
	}
	text, err := json.Marshal(&rest)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 4, 4+len(f.Program)+len(text))
	binary.LittleEndian.PutUint32(b, uint32(len(f.Program)))
	return append(append(b, f.Program...), text...), nil
}

// UnmarshalBinary is the reverse of MarshalBinary. The seccomp program is a part
// of b, not a copy.
func (p *Plan) UnmarshalBinary(b []byte) error {
	if len(b) < 4 {
		return io.ErrUnexpectedEOF
	}
	n := binary.LittleEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(b[n:], p); err != nil {
		return err
	}
	if f := p.Process.Seccomp; f != nil {
		f.Program = b[:n:n]
	} else if n > 0 {
		return errors.New("a seccomp program without a filter")
	}
	return nil
}

// WarmUp decodes a plan for nothing: a process that has done it once does it in a
// third of the time, because its code and the decoder's tables are there.
func WarmUp() {
	b, err := (&Plan{
		Join: []JoinPlan{{}}, Mounts: []MountPlan{{Kind: "bind", Data: []string{""}}}, Devices: []Device{{Path: "/"}},
		Masked: []string{""}, Process: ProcPlan{Args: []string{""}, Rlimits: []Rlimit{{}}, Seccomp: &Filter{}},
	}).MarshalBinary()
	if err == nil {
		_ = new(Plan).UnmarshalBinary(b)
	}
}

// MarshalBinary encodes the plan for another process of the same build.
func (p *ExecPlan) MarshalBinary() ([]byte, error) { return json.Marshal(p) }

// UnmarshalBinary is the reverse of MarshalBinary.
func (p *ExecPlan) UnmarshalBinary(b []byte) error { return json.Unmarshal(b, p) }
