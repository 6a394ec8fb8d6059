"""Who is connected: one actor per connection, from its hello to its end."""
