package linux

import (
	"errors"
	"os"
)

func mountOverlayIDMapped(o Overlay) (*os.File, error) {
	return nil, errors.ErrUnsupported
}
