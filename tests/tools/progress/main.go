// Progress runs a command. Whenever that has printed nothing for half a minute,
// progress prints the tests that run and the packages that are being compiled.
//
//	progress [-C DIRECTORY] [-again] go test -race ./...
//	progress [-C DIRECTORY] go vet ./...
//
// Of "go test" it prints a line for each package, and the output of a test only
// if that fails. It ends with the exit code of the command. With -again, up to three failed
// tests are run once more, alone, and the exit code is then that of this.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// silence is how long nothing is printed before a line about the running work.
// Half a minute is short enough to be believed and long enough to stay out of
// the way.
const silence = 30 * time.Second

func main() {
	log.SetFlags(0)
	dir := flag.String("C", ".", "run the command in `DIRECTORY`")
	repeat := flag.Bool("again", false, "run up to three failed tests again, alone")
	flag.Parse()
	if flag.NArg() == 0 {
		log.Fatal("usage: progress [-C DIRECTORY] COMMAND [ARGUMENT]...")
	}
	if err := os.Chdir(*dir); err != nil {
		log.Fatal(err)
	}
	// The command's own output must stay alone on the standard output.
	screen := &screen{out: os.Stderr, last: time.Now()}
	results := newResults(screen)
	code := run(flag.Args(), screen, results)
	if *repeat && code != 0 && results.failed.few() {
		code = again(flag.Args(), screen, &results.failed)
	}
	os.Exit(code)
}

// run runs the command and returns its exit code.
func run(args []string, screen *screen, results *results) int {
	isTest := len(args) > 1 && filepath.Base(args[0]) == "go" && args[1] == "test"
	if isTest {
		args = slices.Insert(slices.Clone(args), 2, "-json")
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, screen
	var done chan struct{}
	if isTest {
		screen.out = os.Stdout // there are results instead of the command's output
		reader, writer := io.Pipe()
		cmd.Stdout = writer
		done = make(chan struct{})
		go func() {
			defer close(done)
			results.follow(reader)
		}()
		defer func() { <-done }()
		defer writer.Close()
	}
	ended := make(chan struct{})
	defer close(ended)
	go heartbeat(screen, results, ended)
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(screen, err) // the command did not start
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

// heartbeat prints a line about the running work after each silence, until the command ends.
func heartbeat(screen *screen, results *results, ended <-chan struct{}) {
	begun, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		if screen.silentFor() < silence {
			continue
		}
		busy := append(results.running(), compilers(os.Getpid())...)
		if len(busy) == 0 {
			busy = []string{"waiting"}
		}
		// A long list is not read.
		if rest := len(busy) - 4; rest > 0 {
			busy = append(busy[:4], fmt.Sprintf("and %d more", rest))
		}
		fmt.Fprintf(screen, "... %v: %s\n", time.Since(begun).Round(time.Second), join(busy))
	}
}

// screen is the output, and knows when something was last printed.
type screen struct {
	mu   sync.Mutex
	out  io.Writer
	last time.Time
}

// Write prints text.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	return s.out.Write(p)
}

func (s *screen) silentFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.last)
}
