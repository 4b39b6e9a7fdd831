package redistest

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

// Group is the name of the group that a Sentinel of [StartSentinel] watches.
const Group = "mygroup"

// StartSentinel runs a Sentinel that watches one master until the test ends.
// Settings are those of a Sentinel in the form of [Start], such as "--requirepass",
// "secret", or "--sentinel", "auth-pass mygroup secret".
func StartSentinel(t testing.TB, master *Server, settings ...string) *Server {
	t.Helper()
	host, port, err := net.SplitHostPort(master.Addr())
	if err != nil {
		t.Fatal(err)
	}
	watch := []string{"--sentinel", "monitor " + Group + " " + host + " " + port + " 1"}
	return start(&Server{t: t, dir: t.TempDir(), settings: append(watch, settings...), sentinel: true, ready: "+monitor master"})
}

// settingsFile writes arguments of redis-server as lines of a file.
func settingsFile(arguments []string) string {
	var lines strings.Builder
	for i, argument := range arguments {
		name, isName := strings.CutPrefix(argument, "--")
		switch {
		case isName && i > 0:
			lines.WriteString("\n" + name)
		case isName:
			lines.WriteString(name)
		case strings.Contains(argument, " "): // several values
			lines.WriteString(" " + argument)
		default:
			lines.WriteString(" " + strconv.Quote(argument))
		}
	}
	return lines.String() + "\n"
}
