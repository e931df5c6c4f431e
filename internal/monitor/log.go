package monitor

import (
	"time"

	"hull/internal/hull"
	"hull/internal/logs/logfile"
	"hull/internal/monitor/stdio"
)

// openLog opens the writer for a target; nil = none.
func openLog(t hull.LogTarget) (stdio.LogWriter, error) {
	if t.Driver == "" || t.Driver == logfile.None {
		return nil, nil
	}
	w, err := logfile.Open(t)
	if err != nil {
		return nil, err
	}
	return logged{w}, nil
}

// logged fits logfile.Writer to stdio.LogWriter.
type logged struct{ w logfile.Writer }

func (l logged) Write(stream byte, p []byte, at time.Time) error {
	return l.w.Write(logfile.Stream(stream), p, at)
}

func (l logged) Close() error { return l.w.Close() }
