package perf

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// loadPort is where a serving one listens.
const loadPort = 7007

// TestMain is, inside of a container, the program that serves or makes load.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case "serve":
			err = serve()
		case "load":
			err = load(os.Args[2:])
		default:
			os.Exit(m.Run())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// First bytes of a connection.
const (
	askEcho   = 'e' // 64 bytes there and back, again and again
	askStream = 's' // zeros for as long as they are taken
	askOnce   = 'o' // one byte back, and the end
)

func serve() error {
	l, err := net.Listen("tcp", fmt.Sprint(":", loadPort))
	if err != nil {
		return err
	}
	fmt.Println("serving")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 256<<10)
			if _, err := io.ReadFull(c, buf[:1]); err != nil {
				return
			}
			switch buf[0] {
			case askOnce:
				c.Write(buf[:1])
			case askStream:
				for err == nil {
					_, err = c.Write(buf)
				}
			case askEcho:
				for {
					if _, err := io.ReadFull(c, buf[:64]); err != nil {
						return
					}
					if _, err := c.Write(buf[:64]); err != nil {
						return
					}
				}
			}
		}()
	}
}

// load WHAT ADDRESS SECONDS prints how much of it there was in a second, and the
// microseconds that the middle one and the one in a hundred took.
func load(args []string) error {
	if len(args) != 3 {
		return errors.New("load WHAT ADDRESS SECONDS")
	}
	seconds, err := strconv.ParseFloat(args[2], 64)
	if err != nil {
		return err
	}
	span := time.Duration(seconds * float64(time.Second))
	workers, one := 1, func() (func() error, error) { return nil, fmt.Errorf("load: no %q", args[0]) }
	switch args[0] {
	case "stream":
		return loadStream(args[1], span)
	case "requests":
		one = func() (func() error, error) { return echoer(args[1]) }
	case "connections":
		workers, one = 4, func() (func() error, error) { return func() error { return once(args[1]) }, nil }
	case "names":
		workers, one = 4, func() (func() error, error) { return asker(args[1]) }
	}
	return repeat(workers, span, one)
}

// repeat lets workers do what one gives them until the time is over.
func repeat(workers int, span time.Duration, one func() (func() error, error)) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		all  []time.Duration
		errs []error
	)
	start := time.Now()
	for range workers {
		wg.Go(func() {
			var times []time.Duration
			do, err := one()
			for err == nil && time.Since(start) < span {
				begin := time.Now()
				if err = do(); err == nil {
					times = append(times, time.Since(begin))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all, errs = append(all, times...), append(errs, err)
		})
	}
	wg.Wait()
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	slices.Sort(all)
	micros := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1000
	}
	fmt.Println(float64(len(all))/took.Seconds(), micros(0.5), micros(0.99))
	return nil
}

func loadStream(addr string, span time.Duration) error {
	c, err := ask(addr, askStream)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	var sum int
	start := time.Now()
	for time.Since(start) < span {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		sum += n
	}
	fmt.Println(float64(sum)/(1<<20)/time.Since(start).Seconds(), 0, 0)
	return nil
}

func ask(addr string, what byte) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, err = c.Write([]byte{what})
	return c, err
}

func echoer(addr string) (func() error, error) {
	c, err := ask(addr, askEcho)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64)
	return func() error {
		if _, err := c.Write(buf); err != nil {
			return err
		}
		_, err := io.ReadFull(c, buf)
		return err
	}, nil
}

func once(addr string) error {
	c, err := ask(addr, askOnce)
	if err != nil {
		return err
	}
	defer c.Close()
	// The client ends the connection with a reset: the ports of a short test do not run
	// out in TIME_WAIT.
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// asker asks the container's own resolver for a name.
func asker(name string) (func() error, error) {
	c, err := dns.DialTimeout("udp", "127.0.0.11:53", 5*time.Second)
	if err != nil {
		return nil, err
	}
	return func() error {
		m := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if err := c.WriteMsg(m); err != nil {
			return err
		}
		r, err := c.ReadMsg()
		if err == nil && (r.Id != m.Id || len(r.Answer) == 0) {
			err = fmt.Errorf("no answer for %s: %v", name, r)
		}
		return err
	}, nil
}
