package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"hull/internal/guest"
	monitorvm "hull/internal/monitor/vm"
)

// Processes implements the ability driver.Processes: the table of "ps -ef", with
// the container's own pids, because this host has none for them.
func (b *sandbox) Processes(ctx context.Context, id string) (titles []string, rows [][]string, ok bool, err error) {
	raw, _, err := b.Call(ctx, monitorvm.OpTop, []byte(id))
	if err != nil {
		return nil, nil, true, fmt.Errorf("ask the machine: %w", err)
	}
	var list []guest.ProcessInfo
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, nil, true, fmt.Errorf("ask the machine: %w", err)
	}
	titles, rows = table(list, time.Now())
	return titles, rows, true, nil
}

// table is what ps prints of processes. The numbers are a guest's, and may be any.
func table(list []guest.ProcessInfo, now time.Time) (titles []string, rows [][]string) {
	rows = [][]string{}
	for _, p := range list {
		user := strconv.Itoa(p.UID)
		if p.UID == 0 {
			user = "root"
		}
		percent := int64(0)
		if p.Age > 0 && p.CPU > 0 && p.CPU <= p.Age*maxCPUs {
			percent = p.CPU * 100 / p.Age
		}
		started := now.Add(-time.Duration(max(min(p.Age, 1<<40), 0)) * time.Millisecond)
		shown := started.Format("15:04")
		if now.Sub(started) > 24*time.Hour {
			shown = started.Format("Jan02")
		}
		terminal := "?"
		if p.TTY != 0 {
			terminal = "pts/" + strconv.Itoa(p.TTY&0xff)
		}
		used := max(min(p.CPU, 1<<40), 0) / 1000
		rows = append(rows, []string{
			user, strconv.Itoa(p.Pid), strconv.Itoa(p.Parent), strconv.FormatInt(percent, 10), shown, terminal,
			fmt.Sprintf("%02d:%02d:%02d", used/3600, used/60%60, used%60), p.Command,
		})
	}
	return []string{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}, rows
}
