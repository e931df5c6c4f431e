package store

import (
	"errors"
	"fmt"
	"hull/internal/hull"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

type world struct {
	t    *testing.T
	cfg  Config
	open *Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, cfg: Config{Root: filepath.Join(dir, "root"), RunDir: filepath.Join(dir, "run"), BootID: "boot-1"}}
	t.Cleanup(func() {
		if w.open != nil {
			if err := w.open.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	w.start()
	return w
}

func (w *world) start() *Store {
	w.t.Helper()
	s, err := Open(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.open = s
	return s
}

// crash ends the store as kill -9 does: what is queued is lost.
func (w *world) crash() {
	w.t.Helper()
	s := w.open
	s.w.mu.Lock()
	s.w.next = newBatch()
	s.w.mu.Unlock()
	if err := s.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open = nil
}

func (w *world) reboot() *Store {
	w.t.Helper()
	if err := w.open.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.cfg.BootID += "'"
	return w.start()
}

func testID(n int) string { return fmt.Sprintf("%064x", 0xabc00000000000+n) }

func testContainer(n int) hull.Container {
	return hull.Container{
		ID: testID(n), PodID: testID(n), Name: fmt.Sprintf("c%d", n),
		Created: time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC),
		Spec: hull.Spec{
			Image: "busybox", Labels: map[string]string{"a": "b"},
			Process: hull.ProcessSpec{Cmd: []string{"sleep", "1"}, Env: []string{"A=B"}},
		},
		Status: hull.Status{Phase: hull.Created},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDurableSurvivesReboot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open
	must(t, s.PutPod(hull.Pod{ID: testID(1), Name: "c1"}, true))
	must(t, s.PutContainer(testContainer(1), true))
	must(t, s.PutPod(hull.Pod{ID: testID(2), Name: "c2"}, false))
	must(t, s.PutContainer(testContainer(2), false))
	must(t, s.UpdatePod(testID(1), func(p *hull.PodStatus) error { p.Handle = hull.Handle("h"); p.Running = true; return nil }))
	must(t, s.UpdateStatus(testID(1), func(st *hull.Status) error {
		*st = hull.Status{Phase: hull.Running, Pid: 7, Endpoint: hull.Endpoint{NetNS: "/x"}, Health: &hull.Health{Status: "healthy"}}
		return nil
	}))
	must(t, s.PutVolume(hull.Volume{Name: "v"}, false))
	must(t, s.PutNetwork(hull.Network{ID: "n1", Name: "n"}))

	s = w.reboot()
	c, err := s.Container("c1")
	must(t, err)
	want := testContainer(1)
	want.Status = hull.Status{Phase: hull.Running}
	if d := cmp.Diff(want, c); d != "" {
		t.Error("durable container after a reboot: -want +got", d)
	}
	if _, err := s.Container("c2"); !errdefs.IsNotFound(err) {
		t.Error("a container of the last boot came back:", err)
	}
	if p, err := s.Pod(testID(1)); err != nil || p.Status.Running || p.Status.Handle != nil {
		t.Error("pod:", p, err)
	}
	if len(s.Pods()) != 1 {
		t.Error("pods:", s.Pods())
	}
	if _, err := s.Volume("v"); err != nil {
		t.Error(err)
	}
	if _, err := s.Network("n1"); err != nil {
		t.Error(err)
	}
}

func TestEverythingSurvivesACrashOfTheEngine(t *testing.T) {
	t.Parallel()
	for _, durable := range []bool{true, false} {
		t.Run(fmt.Sprint("durable=", durable), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := w.open
			must(t, s.PutPod(hull.Pod{ID: testID(1)}, durable))
			must(t, s.PutContainer(testContainer(1), durable))
			must(t, s.UpdatePod(testID(1), func(p *hull.PodStatus) error { p.Handle = hull.Handle("h"); return nil }))
			must(t, s.UpdateStatus(testID(1), func(st *hull.Status) error { st.Phase, st.Pid = hull.Running, 7; return nil }))
			want := s.Containers()
			w.crash()
			s = w.start()
			if d := cmp.Diff(want, s.Containers()); d != "" {
				t.Error("-want +got", d)
			}
			if p, err := s.Pod(testID(1)); err != nil || string(p.Status.Handle) != "h" {
				t.Error("pod:", p, err)
			}
			// The crash came before the database had the status; now it gets it.
			if durable {
				s = w.reboot()
				if c, err := s.Container("c1"); err != nil || c.Status.Phase != hull.Running || c.Status.Pid != 0 {
					t.Error("after reboot:", c.Status, err)
				}
			}
		})
	}
}

func TestHealthChecksDoNotWrite(t *testing.T) {
	t.Parallel()
	s := newWorld(t).open
	must(t, s.PutContainer(testContainer(1), true))
	update := func(f func(*hull.Status)) {
		t.Helper()
		must(t, s.UpdateStatus(testID(1), func(st *hull.Status) error { f(st); return nil }))
		must(t, s.Sync())
	}
	update(func(st *hull.Status) { st.Phase = hull.Running })
	before := s.db.Stats()
	for i := range 5 {
		update(func(st *hull.Status) { st.Health = &hull.Health{Status: "healthy", FailingStreak: i}; st.Pid = i })
	}
	after := s.db.Stats()
	if n := after.TxStats.GetWrite() - before.TxStats.GetWrite(); n != 0 {
		t.Error(n, "writes")
	}
	update(func(st *hull.Status) { st.ExitCode = 1 })
	last := s.db.Stats()
	if last.TxStats.GetWrite() == after.TxStats.GetWrite() {
		t.Error("a change was not written")
	}
}

func TestIntentWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.open.PutContainer(testContainer(1), true))
	must(t, w.open.UpdateStatus(testID(1), func(st *hull.Status) error { st.StopRequested = true; return nil }))
	w.crash()
	w.cfg.BootID = "boot-2" // power failure: only the database is left
	c, err := w.start().Container(testID(1))
	if err != nil || !c.Status.StopRequested {
		t.Error(c.Status, err)
	}
}

func TestCrashInTheMiddleOfARemoval(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.open.PutContainer(testContainer(1), true))
	must(t, w.open.UpdateStatus(testID(1), func(st *hull.Status) error { st.Pid = 3; return nil }))
	// What a crash after the first of the two steps leaves.
	must(t, w.open.w.put(record{dbKey{bucketContainers, testID(1)}, nil}, record{dbKey{bucketStatus, testID(1)}, nil}))
	half := w.open.run.slots(kindContainer, testID(2), partRecord)
	must(t, os.WriteFile(half.path, []byte("{"), 0o600))
	w.crash()
	s := w.start()
	if got := s.Containers(); len(got) != 0 {
		t.Error(got)
	}
	left, err := filepath.Glob(filepath.Join(w.cfg.RunDir, "store", "*", "*"))
	if err != nil || len(left) != 0 {
		t.Error("left behind:", left, err)
	}
	must(t, s.PutContainer(testContainer(1), true)) // id and name are free
}

func TestReferences(t *testing.T) {
	t.Parallel()
	s := newWorld(t).open
	a, b := testContainer(1), testContainer(2)
	a.ID = "aa11" + a.ID[4:]
	b.ID = "aa22" + b.ID[4:]
	b.Name = "aa1"
	must(t, s.PutContainer(a, false))
	must(t, s.PutContainer(b, true))
	for ref, want := range map[string]string{
		a.ID: a.ID, "c1": a.ID, "/c1": a.ID, "aa11": a.ID, "aa2": b.ID,
		"aa1": b.ID, // a name goes before a prefix
	} {
		if c, err := s.Container(ref); err != nil || c.ID != want {
			t.Errorf("%s: %s %v", ref, c.ID, err)
		}
	}
	for _, c := range []struct {
		ref, text string
		is        func(error) bool
	}{
		{"aa", "multiple IDs found with provided prefix: aa", errdefs.IsInvalidArgument},
		{"zz", "No such container: zz", errdefs.IsNotFound},
		{"", "No such container: ", errdefs.IsNotFound},
		{"/", "No such container: /", errdefs.IsNotFound},
	} {
		if _, err := s.Container(c.ref); err == nil || err.Error() != c.text || !c.is(err) {
			t.Errorf("%q: %v", c.ref, err)
		}
	}
	if got := s.Containers(); got[0].ID != b.ID {
		t.Error("not newest first")
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open
	must(t, s.PutContainer(testContainer(1), true))
	must(t, s.PutContainer(testContainer(2), false))
	taken := func(err error, by int) {
		t.Helper()
		var e *hull.NameTakenError
		if !errors.As(err, &e) || e.ID != testID(by) || !errdefs.IsConflict(err) {
			t.Error("want a conflict with", by, "got", err)
		}
	}
	c := testContainer(3)
	c.Name = "/c1"
	taken(s.PutContainer(c, false), 1)
	taken(s.Rename(testID(1), "c2"), 2)
	if err := s.Rename(testID(1), "/c1"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	must(t, s.Rename(testID(1), "x"))
	must(t, s.PutContainer(c, true))
	must(t, s.Rename(testID(2), "y"))
	w.crash()
	s = w.start()
	for name, n := range map[string]int{"x": 1, "y": 2, "c1": 3} {
		if got, err := s.Container(name); err != nil || got.ID != testID(n) {
			t.Error(name, got.ID, err)
		}
	}
	must(t, s.DeleteContainer(testID(1)))
	must(t, s.DeleteContainer(testID(1)))
	must(t, s.Rename(testID(2), "x"))
}

func TestOneWinnerForAName(t *testing.T) {
	t.Parallel()
	s := newWorld(t).open
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range 20 {
		wg.Go(func() {
			c := testContainer(i)
			c.Name = "same"
			err := s.PutContainer(c, i%2 == 0)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errdefs.IsConflict(err) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 || len(s.Containers()) != 1 {
		t.Error(won, "winners,", len(s.Containers()), "records")
	}
}

func TestUpdateIsAtomic(t *testing.T) {
	t.Parallel()
	s := newWorld(t).open
	must(t, s.PutContainer(testContainer(1), false))
	must(t, s.PutPod(hull.Pod{ID: testID(1)}, true))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := s.UpdateStatus(testID(1), func(st *hull.Status) error { st.RestartCount++; return nil }); err != nil {
				t.Error(err)
			}
			if err := s.UpdatePod(testID(1), func(p *hull.PodStatus) error { p.Handle = append(p.Handle, 'x'); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	boom := errors.New("boom")
	if err := s.UpdateStatus(testID(1), func(st *hull.Status) error { st.RestartCount = 0; return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if err := s.UpdateSpec(testID(1), func(sp *hull.Spec) error { sp.Labels["a"] = "changed"; return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	c, _ := s.Container(testID(1))
	p, _ := s.Pod(testID(1))
	if c.Status.RestartCount != 50 || len(p.Status.Handle) != 50 || c.Spec.Labels["a"] != "b" {
		t.Error(c.Status, p.Status, c.Spec.Labels)
	}
	if err := s.UpdateStatus("nope", func(*hull.Status) error { return nil }); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestCallersCannotCorrupt(t *testing.T) {
	t.Parallel()
	s := newWorld(t).open
	in := testContainer(1)
	must(t, s.PutContainer(in, true))
	var kept *hull.Spec
	must(t, s.UpdateSpec(testID(1), func(sp *hull.Spec) error { kept = sp; sp.Labels["n"] = "1"; return nil }))
	want, _ := s.Container("c1")
	in.Spec.Labels["a"] = "evil"
	kept.Labels["n"] = "evil"
	out, _ := s.Container("c1")
	out.Spec.Process.Cmd[0] = "evil"
	s.Containers()[0].Spec.Labels["a"] = "evil"
	got, _ := s.Container("c1")
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestCloneSharesNothing fills every field of every record and looks for memory
// that a copy shares with it.
func TestCloneSharesNothing(t *testing.T) {
	t.Parallel()
	check := func(name string, orig, clone any) {
		if d := cmp.Diff(orig, clone); d != "" {
			t.Errorf("%s: copy differs: %s", name, d)
		}
		seen := map[uintptr]string{}
		walk(reflect.ValueOf(orig), name, func(p uintptr, at string) { seen[p] = at })
		walk(reflect.ValueOf(clone), name, func(p uintptr, at string) {
			if seen[p] != "" {
				t.Errorf("%s is shared", at)
			}
		})
	}
	c, p, v, n := fill[hull.Container](t), fill[hull.Pod](t), fill[hull.Volume](t), fill[hull.Network](t)
	check("Container", c, cloneContainer(&c))
	check("Pod", p, clonePod(&p))
	check("Volume", v, cloneVolume(&v))
	check("Network", n, cloneNetwork(&n))
}

func fill[T any](t *testing.T) T {
	var v T
	fillValue(t, reflect.ValueOf(&v).Elem())
	return v
}

func fillValue(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fillValue(t, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fillValue(t, k)
		fillValue(t, e)
		v.SetMapIndex(k, e)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0).UTC()))
			return
		}
		for i := range v.NumField() {
			fillValue(t, v.Field(i))
		}
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uint:
		v.SetUint(1)
	case reflect.Array:
		for i := range v.Len() {
			fillValue(t, v.Index(i))
		}
	default:
		t.Fatalf("a record holds a %s, which cannot be copied", v.Type())
	}
}

func walk(v reflect.Value, at string, visit func(uintptr, string)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() && v.Type() != reflect.TypeFor[*time.Location]() {
			visit(v.Pointer(), at)
			walk(v.Elem(), at, visit)
		}
	case reflect.Slice:
		visit(v.Pointer(), at)
		for i := range v.Len() {
			walk(v.Index(i), fmt.Sprintf("%s[%d]", at, i), visit)
		}
	case reflect.Map:
		visit(v.Pointer(), at)
		for it := v.MapRange(); it.Next(); {
			walk(it.Value(), at+"[]", visit)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return
		}
		for i := range v.NumField() {
			walk(v.Field(i), at+"."+v.Type().Field(i).Name, visit)
		}
	default:
	}
}

func TestBrokenRecordsAreSetAside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open
	for i := range 4 {
		must(t, s.PutContainer(testContainer(i), true))
	}
	must(t, s.PutContainer(testContainer(5), false))
	must(t, s.PutVolume(hull.Volume{Name: "v"}, true))
	must(t, s.w.put(
		record{dbKey{bucketContainers, testID(1)}, []byte("{garbage")},
		record{dbKey{bucketContainers, testID(2)}, []byte(`{"v":99,"r":{}}`)},
		record{dbKey{bucketStatus, testID(3)}, []byte("x")},
		record{dbKey{bucketVolumes, "v"}, []byte(`{"v":1,"r":{"Name":"other"}}`)},
	))
	foreign := s.run.slots(kindContainer, testID(5), partRecord)
	must(t, foreign.put([]byte("{")))
	must(t, foreign.put([]byte("{")))
	w.crash()
	s = w.start()
	if got := s.Containers(); len(got) != 2 || got[0].ID != testID(3) || got[1].ID != testID(0) {
		t.Error(got)
	}
	if b := s.Broken(); len(b) != 5 {
		t.Error(b)
	}
	if u := s.Unreadable(); !slices.Contains(u, testID(1)) || !slices.Contains(u, testID(5)) || slices.Contains(u, "v") {
		t.Error(u)
	}
	// The name of a record that cannot be read is free.
	c := testContainer(6)
	c.Name = "c1"
	must(t, s.PutContainer(c, true))
	// Once it can be read again (an older build was started by mistake), the older
	// one has the name.
	old, err := encode(testContainer(1))
	must(t, err)
	must(t, s.w.put(record{dbKey{bucketContainers, testID(1)}, old}))
	w.crash()
	s = w.start()
	if got, err := s.Container("c1"); err != nil || got.ID != testID(1) {
		t.Error(got.ID, err)
	}
	if got, err := s.Container(testID(6)); err != nil || got.Name != testID(6)[:12] {
		t.Error(got.Name, err)
	}
}

func TestTwoEngines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := Open(w.cfg)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d)", os.Getpid())) {
		t.Error(err)
	}
	other := w.cfg
	other.Root = t.TempDir()
	if _, err := Open(other); !errdefs.IsFailedPrecondition(err) {
		t.Error("same run directory:", err)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open
	must(t, s.PutContainer(testContainer(1), true))
	// A value beyond bbolt's limit fails the whole transaction, as a full disk does.
	big := dbKey{bucketVolumes, strings.Repeat("k", 40000)}
	s.w.putLazy(record{big, []byte("x")})
	if err := s.PutContainer(testContainer(2), true); err == nil {
		t.Fatal("no error")
	}
	if _, err := s.Container("c2"); !errdefs.IsNotFound(err) {
		t.Error("a record that was not written is there:", err)
	}
	must(t, s.UpdateStatus(testID(1), func(st *hull.Status) error { st.Phase = hull.Running; return nil }))
	s.w.mu.Lock()
	delete(s.w.next.changes, big) // there is space again
	s.w.mu.Unlock()
	must(t, s.PutContainer(testContainer(2), true))
	w.cfg.BootID = "boot-2"
	w.crash()
	if c, err := w.start().Container("c1"); err != nil || c.Status.Phase != hull.Running {
		t.Error("status lost:", c.Status, err)
	}
}

func TestBadIDs(t *testing.T) {
	t.Parallel()
	s := newWorld(t).open
	for _, id := range []string{"", "..", "a/b", "a.record", "a\x00", strings.Repeat("a", 200)} {
		c := testContainer(1)
		c.ID = id
		if err := s.PutContainer(c, false); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", id, err)
		}
		if err := s.PutPod(hull.Pod{ID: id}, false); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// TestCrashInTheMiddleOfAStatus cuts the newest slot short at every length.
func TestCrashInTheMiddleOfAStatus(t *testing.T) {
	t.Parallel()
	f := slotFile{path: filepath.Join(t.TempDir(), "status")}
	for i := range 5 {
		must(t, f.put(fmt.Appendf(nil, "status %d", i)))
	}
	whole, err := os.ReadFile(f.path)
	must(t, err)
	at := slotStride // number 5
	for cut := range slotHeader + len("status 4") + 1 {
		torn := slices.Clone(whole)
		copy(torn[at+cut:at+slotHeader+len("status 2")], "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17")
		must(t, os.WriteFile(f.path, torn, 0o600))
		again := slotFile{path: f.path}
		got, err := again.get()
		want := "status 3"
		if cut == slotHeader+len("status 4") {
			want = "status 4"
		}
		if err != nil || string(got) != want {
			t.Fatalf("cut at %d: %q, %v", cut, got, err)
		}
		must(t, again.put([]byte("next")))
		again = slotFile{path: f.path}
		if got, err := again.get(); err != nil || string(got) != "next" {
			t.Fatalf("after cut at %d: %q, %v", cut, got, err)
		}
	}
	if err := f.put(make([]byte, slotStride)); err == nil {
		t.Error("a status that does not fit was written")
	}
}

// The first write of a status may be cut short too: then nobody was told of it.
func TestCrashInTheMiddleOfTheFirstStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.open.PutPod(hull.Pod{ID: testID(0)}, true)) // on the disk with the next container
	must(t, w.open.PutContainer(testContainer(0), true))
	must(t, w.open.PutContainer(testContainer(1), false))
	for _, f := range []slotFile{
		w.open.run.slots(kindContainer, testID(0), partStatus), w.open.run.slots(kindContainer, testID(1), partStatus),
		w.open.run.slots(kindPod, testID(0), partStatus),
	} {
		must(t, os.WriteFile(f.path, []byte("\x01"), 0o600))
	}
	w.crash()
	s := w.start()
	if b := s.Broken(); len(b) != 0 {
		t.Error(b)
	}
	if got := s.Containers(); len(got) != 2 {
		t.Error(got)
	}
	if _, err := s.Pod(testID(0)); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := encode(testContainer(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(testID(1), b)
	f.Add("x", []byte(`{"v":1,"r":{"ID":"x","PodID":"x","Status":{"Health":null}}}`))
	f.Add("", []byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, key string, b []byte) {
		c, err := decodeContainer(key, b)
		if err != nil {
			return
		}
		if c.ID != key || checkID(c.ID) != nil {
			t.Fatal("accepted", c.ID)
		}
		again, err := encode(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeContainer(key, again); err != nil {
			t.Fatal("cannot read what it wrote:", err)
		}
	})
}

func benchStore(b *testing.B, n int, durable bool) *Store {
	dir := b.TempDir()
	s, err := Open(Config{Root: dir + "/root", RunDir: dir + "/run"})
	must(b, err)
	b.Cleanup(func() { must(b, s.Close()) })
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { must(b, s.PutContainer(testContainer(i), durable)) })
	}
	wg.Wait()
	return s
}

func BenchmarkList1000(b *testing.B) {
	s := benchStore(b, 1000, false)
	for b.Loop() {
		s.Containers()
	}
}

func BenchmarkCreateRemove(b *testing.B) {
	for _, durable := range []bool{false, true} {
		b.Run(fmt.Sprint("durable=", durable), func(b *testing.B) {
			s := benchStore(b, 1000, false)
			n := 1000
			for b.Loop() {
				n++
				must(b, s.PutContainer(testContainer(n), durable))
				must(b, s.DeleteContainer(testID(n)))
			}
		})
	}
}

func BenchmarkCreateParallel(b *testing.B) {
	for b.Loop() {
		benchStore(b, 100, true)
	}
}

func BenchmarkUpdateStatus(b *testing.B) {
	s := benchStore(b, 1, true)
	for b.Loop() {
		must(b, s.UpdateStatus(testID(0), func(st *hull.Status) error { st.Pid++; return nil }))
	}
}
