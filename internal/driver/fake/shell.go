package fake

import (
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"hull/internal/hull"
)

// lookup says why a program cannot be run.
func lookup(name string) *hull.ExecError {
	switch path.Base(name) {
	case "sh", "true", "false", "sleep", "cat", "echo", "tail", "id":
		return nil
	case "notexec": // the suite's file without x permission
		return &hull.ExecError{Code: 126, Path: name, Err: syscall.EACCES}
	}
	return &hull.ExecError{Code: 127, Path: name, Err: syscall.ENOENT}
}

// lookupUser finds a user of the toy root file system, which has root, alice,
// and their groups; the result is what id prints.
func lookupUser(spec string, groups []string) (string, error) {
	name, group, hasGroup := strings.Cut(spec, ":")
	var uid, gid int
	text := ""
	switch name {
	case "", "0", "root":
		text = "uid=0(root)"
	case "alice":
		text, gid = "uid=1000(alice)", 100
		groups = append([]string{"2000"}, groups...)
	default:
		var err error
		if uid, err = strconv.Atoi(name); err != nil || uid < 0 || uid > 1<<31-1 {
			return "", fmt.Errorf("unable to find user %s: no matching entries in passwd file: %w", spec, errdefs.ErrInvalidArgument)
		}
		text = "uid=" + name
	}
	if hasGroup {
		var err error
		if gid, err = strconv.Atoi(group); err != nil || gid < 0 || gid > 1<<31-1 {
			return "", fmt.Errorf("unable to find group %s: no matching entries in group file: %w", group, errdefs.ErrInvalidArgument)
		}
	}
	id := strconv.Itoa(gid)
	return text + " gid=" + id + " groups=" + strings.Join(append([]string{id}, groups...), ","), nil
}

// shell runs a program: one of lookup's, or sh -c with commands separated by
// semicolons:
//
//	echo WORDS [>&2]   cat   sleep SECONDS   exit N   true   false   :
//	id                 (prints the user)
//	stty size          (prints rows and columns)
//	trap 'exit N' TERM (or another of INT HUP USR1 USR2 TERM)
//	while ...          (until a signal ends it)
//	tail /dev/zero     (killed for its memory use when there is a limit)
func (p *process) shell(args []string) (code int, oom bool) {
	if path.Base(args[0]) != "sh" {
		return p.command(args)
	}
	if len(args) < 3 { // an interactive shell: lines of stdin would be commands
		return p.command([]string{"cat"})
	}
	for c := range strings.SplitSeq(args[2], ";") {
		words := strings.Fields(c)
		if len(words) == 0 {
			continue
		}
		if words[0] == "exit" {
			return number(words[1:]), false
		}
		var over bool
		if code, oom, over = p.statement(words); over {
			return code, oom
		}
	}
	return code, false
}

// statement runs one command; over = the shell ends here.
func (p *process) statement(words []string) (code int, oom, over bool) {
	switch words[0] {
	case "trap":
		if len(words) == 4 {
			p.mu.Lock()
			p.traps[signals()[words[3]]] = number([]string{strings.Trim(words[2], "'\"")})
			p.mu.Unlock()
		}
		return 0, false, false
	case "while":
		code, _ = p.sleep(time.Hour)
		return code, false, true
	}
	code, oom = p.command(words)
	return code, oom, oom || code > 128
}

func signals() map[string]syscall.Signal {
	return map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP,
		"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
	}
}

func number(words []string) int {
	if len(words) == 0 {
		return 0
	}
	n, err := strconv.Atoi(words[0])
	if err != nil {
		return 2
	}
	return n & 0xff
}

func (p *process) command(args []string) (code int, oom bool) {
	switch path.Base(args[0]) {
	case "false":
		return 1, false
	case "echo":
		out, words := io.Writer(p.child.Out), args[1:]
		if n := len(words); n > 0 && words[n-1] == ">&2" {
			out, words = p.child.Err, words[:n-1]
		}
		_, _ = fmt.Fprintln(out, strings.Join(words, " "))
	case "id":
		_, _ = fmt.Fprintln(p.child.Out, p.user)
	case "stty":
		p.mu.Lock()
		rows, cols := p.rows, p.cols
		p.mu.Unlock()
		_, _ = fmt.Fprintln(p.child.Out, rows, cols)
	case "sleep":
		s, err := strconv.ParseFloat(args[1], 64)
		if err != nil {
			return 1, false
		}
		return p.sleep(time.Duration(s * float64(time.Second)))
	case "cat":
		return p.cat()
	case "tail":
		p.box.mu.Lock()
		id := p.id
		if p.container != "" {
			id = p.container
		}
		limit := p.box.memory[id]
		p.box.mu.Unlock()
		if limit > 0 {
			return 137, true
		}
	}
	return 0, false
}

// sleep waits and takes signals: a trap's exit code, or 128+n.
func (p *process) sleep(d time.Duration) (code int, oom bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return 0, false
	case <-p.ctx.Done():
		return 137, false
	case sig := <-p.sigs:
		p.mu.Lock()
		defer p.mu.Unlock()
		if n, ok := p.traps[sig]; ok {
			return n, false
		}
		return 128 + int(sig), false
	}
}

func (p *process) cat() (code int, oom bool) {
	if p.child.In == nil {
		return 0, false
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(p.child.Out, p.child.In)
		close(ended)
	}()
	select {
	case <-ended:
		return 0, false
	case <-p.ctx.Done():
		return 137, false
	case sig := <-p.sigs:
		return 128 + int(sig), false
	}
}
