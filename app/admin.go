package app

import (
	"fmt"
	"net"
	"net/http"

	"github.com/weirhq/weir/config"
)

// startAdmin serves operators at an address of their own, if there is one, until stop is
// called. That comes last at a shutdown: its metrics tell how the shutdown goes.
func (m *mirror) startAdmin(cfg config.Server) (stop func(), err error) {
	if m.admin == nil {
		return func() {}, nil
	}
	listener, err := net.Listen("tcp", cfg.AdminAddress)
	if err != nil {
		return nil, fmt.Errorf("cannot listen (server.admin_address): %w", err)
	}
	server := m.newServer(m.admin)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(m.entrance.listener(newStallListener(listener, m.logger))); err != http.ErrServerClosed { //nolint:errorlint // Serve wraps no error
			m.logger.Error("the listener at server.admin_address has stopped. The mirror continues without it", "error", err)
		}
	}()
	m.logger.Info("listening at server.admin_address", "address", listener.Addr().String(), "scheme", m.entrance.scheme())
	return func() {
		server.Close()
		<-ended
	}, nil
}
