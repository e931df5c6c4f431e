package firewall

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"

	"hull/internal/require"
)

// alone moves the test's thread into a network namespace of its own.
func alone(t *testing.T) {
	t.Helper()
	require.Root(t)
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
}

func open(t *testing.T) *Table {
	t.Helper()
	table, err := Open("hull-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func example() Change {
	return Change{
		AddNetworks: []Network{
			{Bridge: "hull0", Hidden4: true, Hidden6: true, Subnet4: netip.MustParsePrefix("172.17.0.0/16"), Subnet6: netip.MustParsePrefix("fd00::/64")},
			{Bridge: "known", Routed4: true, Routed6: true, Open: true},
			{Bridge: "inner", Internal: true, Isolated: true, Subnet4: netip.MustParsePrefix("10.0.0.0/24")},
		},
		AddForwards: []Forward{
			{Proto: "tcp", Host: netip.MustParsePrefix("0.0.0.0/0"), First: 8080, Last: 8080, To: netip.MustParseAddr("172.17.0.2"), ToPort: 80},
			{Proto: "udp", Host: netip.MustParsePrefix("127.0.0.1/32"), First: 9000, Last: 9999, To: netip.MustParseAddr("172.17.0.2"), ToPort: 9000},
			{Proto: "sctp", Host: netip.MustParsePrefix("::/0"), First: 8080, Last: 8080, To: netip.MustParseAddr("fd00::2"), ToPort: 80},
			{Proto: "tcp", Host: netip.MustParsePrefix("2001:db8::1/128"), First: 1, Last: 65535, To: netip.MustParseAddr("fd00::2"), ToPort: 1},
			{Proto: "tcp", Host: netip.MustParsePrefix("127.0.0.1/32"), First: 8081, Last: 8081, To: netip.MustParseAddr("172.17.0.2"), ToPort: 81},
			{Proto: "udp", Host: netip.MustParsePrefix("2001:db8::1/128"), First: 53, Last: 53, To: netip.MustParseAddr("fd00::2"), ToPort: 53},
			{Proto: "tcp", First: 80, Last: 81, To: netip.MustParseAddr("10.1.0.2"), Routed: true},
			{Proto: "udp", First: 53, Last: 53, To: netip.MustParseAddr("fd01::2"), Routed: true},
		},
		AddUplinks: []string{"eth0"},
	}
}

var update = flag.Bool("update", false, "write golden files") //nolint:gochecknoglobals // a flag

// The listing is what the kernel gives back, expression by expression.
func TestRulesAsTheKernelHasThem(t *testing.T) {
	alone(t)
	table := open(t)
	if _, err := table.Apply(example()); err != nil {
		t.Fatal(err)
	}
	got := listing(t, table)
	golden := filepath.Join("testdata", "rules.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("rules differ from %s (-update writes it):\n%s", golden, got)
	}
}

func TestApplyIsIdempotentAndReversible(t *testing.T) {
	alone(t)
	table := open(t)
	c := example()
	for range 2 {
		if repaired, err := table.Apply(c); err != nil || repaired {
			t.Fatalf("repaired %v, %v", repaired, err)
		}
	}
	full := listing(t, table)
	// Another process's eyes: what it adopts is found in order.
	second := open(t)
	second.Adopt(c.AddNetworks, c.AddForwards)
	if repaired, err := second.Sweep(); err != nil || repaired {
		t.Fatalf("repaired %v, %v", repaired, err)
	}
	if now := listing(t, second); now != full {
		t.Errorf("sweep of a sound table changed it:\n%s", now)
	}
	// What nobody claims goes, what is missing comes.
	third := open(t)
	third.Adopt(c.AddNetworks[:1], c.AddForwards[:1])
	if _, err := third.Sweep(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(listing(t, third), "element"); n >= strings.Count(full, "element") {
		t.Errorf("%d elements after the sweep", n)
	}
	if repaired, err := second.Apply(Change{}); err != nil || !repaired {
		t.Errorf("elements taken away by others: repaired %v, %v", repaired, err)
	}
	if now := listing(t, second); now != full {
		t.Errorf("repair gave\n%s", now)
	}
	del := Change{DelForwards: c.AddForwards, DelNetworks: []string{"hull0", "inner", "known", "never"}}
	if _, err := second.Apply(del); err != nil {
		t.Fatal(err)
	}
	if rest := strings.Count(listing(t, second), "element"); rest != 1 { // the uplink
		t.Errorf("%d elements are left", rest)
	}
}

// A change that the kernel refuses leaves the table and the memory as they were.
func TestFailedApplyChangesNothing(t *testing.T) {
	alone(t)
	table := open(t)
	c := example()
	if _, err := table.Apply(c); err != nil {
		t.Fatal(err)
	}
	full := listing(t, table)
	overlap := c.AddForwards[1]
	overlap.First, overlap.Last, overlap.ToPort = 9500, 10500, 9500
	other := Forward{Proto: "tcp", Host: netip.MustParsePrefix("10.0.0.1/32"), First: 1, Last: 1, To: netip.MustParseAddr("172.17.0.2"), ToPort: 2}
	if _, err := table.Apply(Change{AddForwards: []Forward{other, overlap}}); err == nil {
		t.Fatal("an overlapping range was accepted")
	}
	if now := listing(t, table); now != full {
		t.Errorf("after the failure:\n%s", now)
	}
	if _, err := table.Apply(Change{AddForwards: []Forward{other}}); err != nil {
		t.Errorf("after the failure: %v", err)
	}
}

func TestManyElements(t *testing.T) {
	alone(t)
	table := open(t)
	c := example()
	c.AddForwards = nil
	for i := range uint16(3000) {
		c.AddForwards = append(c.AddForwards, Forward{Proto: "tcp", Host: netip.MustParsePrefix("0.0.0.0/0"), First: i + 1, Last: i + 1, To: netip.MustParseAddr("172.17.0.2"), ToPort: i + 2})
	}
	if _, err := table.Apply(c); err != nil {
		t.Fatal(err)
	}
	table.conn.FlushRuleset()
	if err := table.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if repaired, err := table.Apply(Change{}); err != nil || !repaired {
		t.Fatalf("repaired %v, %v", repaired, err)
	}
	if err := table.Delete(); err != nil {
		t.Fatal(err)
	}
	if err := table.Delete(); err != nil {
		t.Fatalf("delete twice: %v", err)
	}
	if _, err := table.conn.ListTableOfFamily(table.name, nftables.TableFamilyINet); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the table is there: %v", err)
	}
}

func listing(t *testing.T, table *Table) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\n", table.name)
	for _, s := range table.sets() {
		have, err := table.conn.GetSetElements(s)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "\nset %s: %s", s.Name, s.KeyType.Name)
		if s.IsMap {
			fmt.Fprintf(&b, " -> %s", s.DataType.Name)
		}
		b.WriteByte('\n')
		var lines []string
		for _, e := range have {
			lines = append(lines, fmt.Sprintf("  element %x", identity(e)))
		}
		// The kernel's order is a hash's.
		slices.Sort(lines)
		for _, l := range lines {
			b.WriteString(l + "\n")
		}
	}
	for _, c := range table.chains() {
		chain, err := table.conn.ListChain(table.table(), c.chain.Name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "\nchain %s", chain.Name)
		if chain.Hooknum != nil {
			fmt.Fprintf(&b, " type %s hook %d priority %d policy %d", chain.Type, *chain.Hooknum, *chain.Priority, *chain.Policy)
		}
		b.WriteByte('\n')
		rules, err := table.conn.GetRules(table.table(), c.chain)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			b.WriteString(" ")
			for _, e := range r.Exprs {
				b.WriteString(" [" + describe(e) + "]")
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// describe writes an expression's fields, without those that say nothing.
func describe(e expr.Any) string {
	v := reflect.ValueOf(e).Elem()
	out := strings.ToLower(v.Type().Name())
	for i := range v.NumField() {
		if f := v.Field(i); !f.IsZero() {
			name := v.Type().Field(i).Name
			if f.Kind() == reflect.Slice {
				out += fmt.Sprintf(" %s=%x", name, f.Interface())
			} else {
				out += fmt.Sprintf(" %s=%v", name, f.Interface())
			}
		}
	}
	return out
}
