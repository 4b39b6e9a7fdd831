package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

func TestReplyScanner(t *testing.T) {
	long := strings.Repeat("x", maxRedisString)
	for _, tt := range []struct {
		name, reply string
		refused     bool
	}{
		{"lines", "+OK\r\n:5\r\n-ERR no\r\n_\r\n#t\r\n,1.5\r\n(123\r\n", false},
		{"string", "$5\r\nhello\r\n+OK\r\n", false},
		{"none", "$-1\r\n*-1\r\n", false},
		{"empty string", "$0\r\n\r\n*0\r\n", false},
		{"longest string", fmt.Sprintf("$%d\r\n%s\r\n:1\r\n", len(long), long), false},
		{"string with a header in it", "$13\r\n$99999999999\n\r\n:1\r\n", false},
		{"message", ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n", false},
		{"long line", "+" + long + "\r\n+OK\r\n", false},
		{"string too long", fmt.Sprintf("$%d\r\n", maxRedisString+1), true},
		{"length that no memory has", "$9223372036854775807\r\n", true},
		{"length that is no number", "$99999999999999999999999999\r\n", true},
		{"length behind a plus", "$+99999999999\r\n", true},
		{"length after zeros", "$" + strings.Repeat("0", 40) + "99999999999\r\n", true},
		{"verbatim", "=99999999\r\n", true},
		{"error", "!99999999\r\n", true},
		{"list", "*99999999\r\n", true},
		{"list in a list", "*1\r\n*99999999\r\n", true},
		{"set", "~99999999\r\n", true},
		{"map", "%99999999\r\n", true},
		{"push", ">99999999\r\n", true},
		{"attribute", "|99999999\r\n", true},
		{"after a string", "$1\r\nx\r\n$99999999\r\n", true},
		{"without an end", "+" + strings.Repeat("x", maxRedisReply), true},
	} {
		for _, size := range []int{1, 7, 1 << 20} { // as the network cuts it
			var s replyScanner
			var err error
			for rest := []byte(tt.reply); len(rest) > 0 && err == nil; {
				n := min(size, len(rest))
				err = s.scan(rest[:n])
				rest = rest[n:]
			}
			if (err != nil) != tt.refused {
				t.Errorf("%s, in pieces of %d: %v", tt.name, size, err)
			}
		}
	}
}

// FuzzReplyScanner checks that the cuts of the network change nothing, and that no
// length beyond the bounds passes where a client reads one.
func FuzzReplyScanner(f *testing.F) {
	f.Add([]byte("$5\r\nhello\r\n*1\r\n:5\r\n"), 3)
	f.Add([]byte("$13\r\n$99999999999\n\r\n$-1\r\n>2\r\n+a\r\n+b\r\n"), 1)
	f.Fuzz(func(t *testing.T, reply []byte, size int) {
		var whole, cut replyScanner
		want := whole.scan(reply)
		var got error
		for rest := reply; len(rest) > 0 && got == nil; {
			n := min(max(1, size), len(rest))
			got = cut.scan(rest[:n])
			rest = rest[n:]
		}
		if (want == nil) != (got == nil) {
			t.Errorf("%v as a whole, %v in pieces", want, got)
		}
		if len(whole.header) > maxRedisHeader || whole.skip > maxRedisString+2 {
			t.Errorf("%d bytes of a header, %d to skip", len(whole.header), whole.skip)
		}
	})
}

// A server in the place of Redis cannot end the mirror by the length of an answer.
func TestRedisAnswersTooMuch(t *testing.T) {
	for _, reply := range []string{"$9223372036854775800\r\n", "*9223372036854775800\r\n", "$536870912\r\n", "+" + strings.Repeat("x", 8<<20)} {
		t.Run(fmt.Sprintf("%.20q", reply), func(t *testing.T) {
			// In the time of the bubble, no exchange ends at its limit of time.
			synctest.Test(t, func(t *testing.T) {
				s := newSharing(t)
				s.dial = func(context.Context, string, string) (net.Conn, error) {
					client, server := net.Pipe()
					go func() {
						defer server.Close()
						if _, err := bufio.NewReader(server).ReadString('\n'); err == nil {
							_, _ = io.WriteString(server, reply) // the client leaves before its end
						}
					}()
					return client, nil
				}
				s.configure(t, `url = "redis://redis.test"`)
				if got := s.token(t, "scope", "mine"); got != "mine" {
					t.Errorf("token %q", got)
				}
				waitFor(t, "a warning", func() bool { return s.log.Count("WARN", "redis: ", "no other client of it publishes") > 0 })
			})
		})
	}
}
