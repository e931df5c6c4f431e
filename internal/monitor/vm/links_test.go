package vm

import (
	"fmt"
	"testing"
)

// TestNumber: a network keeps its tag, and no two have the same.
func TestNumber(t *testing.T) {
	var before []Net
	for i, c := range []struct{ macs, want string }{
		{"abc", "a0 b1 c2 "}, {"bc", "b1 c2 "}, {"dbc", "d0 b1 c2 "}, {"bcdef", "b1 c2 d0 e3 f4 "}, {"", ""}, {"f", "f0 "}, {"af", "a1 f0 "},
	} {
		var nets []Net
		for _, m := range c.macs {
			nets = append(nets, Net{Mac: string(m)})
		}
		if err := number(nets, before); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, n := range nets {
			got += fmt.Sprintf("%s%d ", n.Mac, n.Tag)
		}
		if got != c.want {
			t.Errorf("step %d: %q, want %q", i, got, c.want)
		}
		before = nets
	}
	many := make([]Net, 4096)
	for i := range many {
		many[i].Mac = fmt.Sprint(i)
	}
	if number(many, nil) == nil {
		t.Error("there is a tag for each of 4096 networks")
	}
	if err := number(many[:4095], nil); err != nil || many[4094].Tag != 4094 {
		t.Errorf("tag of the last of 4095: %d, %v", many[4094].Tag, err)
	}
}
