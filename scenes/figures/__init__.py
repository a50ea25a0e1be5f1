"""How each category looks: functions that draw one figure with a pen, in units of an adult's height."""
