package docker

import (
	"strings"

	"github.com/moby/sys/signal"
)

// detachKeys reads "ctrl-p,ctrl-q" or single characters. nil = the default.
func detachKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var out []byte
	for key := range strings.SplitSeq(text, ",") {
		b, ok := keyByte(key)
		if !ok {
			return nil, invalid("Invalid detach keys (%s) provided", text)
		}
		out = append(out, b)
	}
	return out, nil
}

func keyByte(key string) (byte, bool) {
	if len(key) == 1 {
		return key[0], true
	}
	c, ok := strings.CutPrefix(key, "ctrl-")
	if !ok || len(c) != 1 {
		return 0, false
	}
	switch b := c[0]; {
	case b >= 'a' && b <= 'z':
		return b - 'a' + 1, true
	case b == '@':
		return 0, true
	case b >= '[' && b <= '_':
		return b - '[' + 27, true
	}
	return 0, false
}

// checkSignal refuses a signal that has no meaning here. "" is fine.
func checkSignal(name string) error {
	if name == "" {
		return nil
	}
	if _, err := signal.ParseSignal(name); err != nil {
		return invalid("%v", err)
	}
	return nil
}
