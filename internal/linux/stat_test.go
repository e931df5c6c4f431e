package linux

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	const rest = " S 1 2 3 34816 5 6 7 8 9 10 100 23 13 14 15 16 17 18 4242 20 21\n"
	for _, name := range []string{"sleep", "a b", ") R 1 2 (", "", "hull-monitor~3"} {
		s, err := parseStat([]byte("12 (" + name + ")" + rest))
		want := Stat{Name: name, State: 'S', TTY: 34816, CPU: 123, Started: 4242}
		if err != nil || s != want {
			t.Errorf("%q: %+v, %v", name, s, err)
		}
	}
	for _, bad := range []string{"", "12 sleep S 1", ")(", "12 (sleep) S 1 2", "12 (sleep) S 1 2 3 4 5 6 7 8 9 10 x 23 13 14 15 16 17 18 4242"} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
	if !(Stat{State: 'Z'}).Ended() || !(Stat{State: 'X'}).Ended() || (Stat{State: 'T'}).Ended() {
		t.Error("what has ended")
	}
	if s, err := ReadStat(os.Getpid()); err != nil || s.Started == 0 || s.Ended() {
		t.Errorf("of this process: %+v, %v", s, err)
	}
	if _, err := ReadStat(1 << 30); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no process: %v", err)
	}
}

func TestMemAvailable(t *testing.T) {
	t.Parallel()
	if n, err := MemAvailable(); err != nil || n <= 0 || n%1024 != 0 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
